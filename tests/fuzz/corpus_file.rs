//! Any bytes as a file of texts: all of it is loaded or nothing, and what is loaded holds together.

#![no_main]

use std::fs::write;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use mlxspec_scheduler::corpus::Corpus;
use mlxspec_scheduler::corpus_file::{load, save};
use mlxspec_scheduler::draft::Drafter;

const NAME: &str = "a tokenizer";
const HEAD: &[u8] = b"mlxspec texts 1\n\x0b\0\0\0a tokenizer";

fuzz_target!(|bytes: &[u8]| {
    let file = file();
    write(&file, forged(bytes)).expect("a folder for temporary files");
    let Some(found) = loaded(&file) else { return };
    found.check_integrity().expect("what is loaded holds together");
    save(&found, NAME, &file).expect("it can be written again");
    let again = loaded(&file).expect("what is saved can be loaded");
    assert!(found.texts().eq(again.texts()));
});

/// Every other input has a right beginning and a right checksum: they would hardly be guessed.
fn forged(bytes: &[u8]) -> Vec<u8> {
    let Some((0..128, texts)) = bytes.split_first() else { return bytes.to_vec() };
    let body = [HEAD, texts].concat();
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let checksum = body.iter().fold(0xcbf2_9ce4_8422_2325, step);
    [&body[..], &checksum.to_le_bytes()].concat()
}

fn loaded(file: &Path) -> Option<Corpus> {
    let mut found = Corpus::new(Drafter::Shared, 500);
    load(&mut found, NAME, file).then_some(found)
}

fn file() -> PathBuf {
    std::env::temp_dir().join(format!("mlxspec-fuzz-{}.texts", std::process::id()))
}
