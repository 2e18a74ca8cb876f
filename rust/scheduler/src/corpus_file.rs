//! A corpus on disk, so that a restarted server drafts as well as the one before.
//!
//! ```text
//!   "mlxspec texts 1"   fingerprint   texts: salt, tokens   FNV-1a of all before
//! ```
//! Numbers are little-endian u32, strings and texts begin with their length. The fingerprint names the
//! tokenizer: the same numbers are other words in another's. A file that is foreign or torn is as good
//! as none.

use std::fs::{File, create_dir_all, read, remove_file, rename};
use std::io::{Result, Write};
use std::path::Path;
use std::sync::Arc;

use crate::corpus::Corpus;

const MAGIC: &[u8] = b"mlxspec texts 1\n";
const CHECKSUM_BYTES: usize = 8;

/// Write the corpus beside `path`, then put it in its place: whoever reads sees all of it or what was
/// there before. Readable by the owner alone: texts are what users said.
///
/// # Errors
/// When the folder cannot be made or the file not be written; nothing of it is left then.
pub fn save(corpus: &Corpus, fingerprint: &str, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        create_dir_all(folder)?;
    }
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = write(&aside, &encode(corpus, fingerprint)).and_then(|()| rename(&aside, path));
    if written.is_err() {
        // A disk that is full gets its room back; the error that counts is the first one.
        drop(remove_file(&aside));
    }
    written
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = private_file(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Fill an empty corpus with the texts at `path`; false if there are none, of this tokenizer and whole.
pub fn load(corpus: &mut Corpus, fingerprint: &str, path: &Path) -> bool {
    let texts = read(path).ok().and_then(|bytes| decode(&bytes, fingerprint));
    let found = texts.is_some();
    for (salt, tokens) in texts.unwrap_or_default() {
        corpus.insert(&salt, &tokens);
    }
    found
}

#[cfg(unix)]
fn private_file(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn private_file(path: &Path) -> Result<File> {
    File::create(path)
}

fn encode(corpus: &Corpus, fingerprint: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put(&mut bytes, fingerprint.as_bytes());
    for (salt, tokens) in corpus.texts() {
        put(&mut bytes, salt.as_bytes());
        bytes.extend((tokens.len() as u32).to_le_bytes());
        bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    }
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text);
}

/// The texts with their salts, oldest first; `None` for a file that is foreign or torn.
fn decode(bytes: &[u8], fingerprint: &str) -> Option<Vec<(Arc<str>, Vec<u32>)>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    if sum != checksum(body).to_le_bytes() {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let len = take_len(&mut rest)?;
    if take(&mut rest, len)? != fingerprint.as_bytes() {
        return None;
    }
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let len = take_len(&mut rest)?;
        let salt = std::str::from_utf8(take(&mut rest, len)?).ok()?;
        let len = take_len(&mut rest)?;
        let tokens = take(&mut rest, len.checked_mul(4)?)?.chunks_exact(4);
        texts.push((salt.into(), tokens.map(word).collect()));
    }
    Some(texts)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(taken)
}

fn take_len(rest: &mut &[u8]) -> Option<usize> {
    Some(word(take(rest, 4)?) as usize)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// FNV-1a, 64 bits: finds what a crash or a bad disk does, not what a forger does.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
