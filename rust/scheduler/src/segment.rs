//! Segments: the pieces in which prefixes lie on disk, and how they are named.
//!
//! ```text
//!   tokens   [ 0 .. 128 )         [ 128 .. 256 )     256 .. 300
//!   names    a = H(salt, tokens)  b = H(a, tokens)   not a whole segment
//! ```
//! A name is a keyed BLAKE3 hash of the salt and of all tokens up to the segment's end; the key is
//! derived from what the KV depends on. So the same beginning has the same names in every server of
//! the same model, other models' and other salts' names are unrelated, and nobody reads a salt or a
//! text from a name.

use std::fmt;

use crate::ids::{ModelId, RequestId, Row};

/// Tokens of a segment: few enough to be read or written between two steps.
pub const SEGMENT_TOKENS: u32 = 128;

const CONTEXT: &str = "mlxspec 2026-11 names of KV segments";
const NAME_BYTES: usize = 16;

/// The name of the KV of some tokens behind all those before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName([u8; NAME_BYTES]);

impl SegmentName {
    /// Read what [`fmt::Display`] writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let is_ours = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 2 * NAME_BYTES || !text.bytes().all(is_ours) {
            return None;
        }
        Some(Self(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The names of all whole segments of `tokens`. `kv_key` names what KV depends on beside them:
/// weights, layout, versions.
pub fn names(kv_key: &str, salt: &str, tokens: &[u32]) -> Vec<SegmentName> {
    let key = blake3::derive_key(CONTEXT, kv_key.as_bytes());
    let mut before = *blake3::keyed_hash(&key, salt.as_bytes()).as_bytes();
    let segments = tokens.chunks_exact(SEGMENT_TOKENS as usize);
    segments
        .map(|segment| {
            let mut hasher = blake3::Hasher::new_keyed(&key);
            hasher.update(&before);
            for token in segment {
                hasher.update(&token.to_le_bytes());
            }
            before = *hasher.finalize().as_bytes();
            let mut name = [0; NAME_BYTES];
            name.copy_from_slice(&before[..NAME_BYTES]);
            SegmentName(name)
        })
        .collect()
}

/// One segment's KV, from a row to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSave {
    /// Whose KV.
    pub model: ModelId,
    /// Which of its instances has it.
    pub instance: u32,
    /// The row that holds it.
    pub row: Row,
    /// The segment's first position.
    pub start: u32,
    /// What to call it.
    pub name: SegmentName,
}

/// One segment's KV, from disk to the row of a request that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRead {
    /// Whose KV.
    pub model: ModelId,
    /// Which of its instances wants it.
    pub instance: u32,
    /// Who waits.
    pub request: RequestId,
    /// Its row.
    pub row: Row,
    /// The segment's first position.
    pub start: u32,
    /// Leading positions of it that the row has already.
    pub known: u32,
    /// What it is called.
    pub name: SegmentName,
}
