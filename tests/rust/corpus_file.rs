//! What a server leaves on disk, and what the next one makes of a file in any state.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

use std::fs;
use std::path::{Path, PathBuf};

use mlxspec_scheduler::archive::Archive;
use mlxspec_scheduler::corpus::Corpus;
use mlxspec_scheduler::corpus_file::{load, save};
use mlxspec_scheduler::draft::Drafter;
use proptest::prelude::*;

const NAME: &str = "a tokenizer";

/// A folder of this test's own, gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mlxspec-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("made on the way").join("file.texts")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn corpus(texts: &[(String, Vec<u32>)]) -> Corpus {
    let mut corpus = Corpus::new(Drafter::Shared, 500);
    for (salt, tokens) in texts {
        corpus.insert(&salt.as_str().into(), tokens);
    }
    corpus
}

fn texts(corpus: &Corpus) -> Vec<(String, Vec<u32>)> {
    corpus.texts().map(|(salt, tokens)| (salt.to_string(), tokens)).collect()
}

fn loaded(file: &Path, name: &str) -> Option<Corpus> {
    let mut found = corpus(&[]);
    load(&mut found, name, file).then_some(found)
}

fn two_texts() -> Corpus {
    corpus(&[
        (String::new(), (0..20).collect()),
        ("salt".to_owned(), (u32::MAX - 9..=u32::MAX).collect()),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_saved_is_loaded(
        written in prop::collection::vec((".{0,6}", prop::collection::vec(any::<u32>(), 0..60)), 0..20),
    ) {
        let folder = Folder::new("saved");
        let saved = corpus(&written);
        save(&saved, NAME, &folder.file()).unwrap();
        let found = loaded(&folder.file(), NAME).unwrap();
        found.check_integrity().unwrap();
        prop_assert_eq!(texts(&found), texts(&saved));
    }
}

#[test]
fn a_torn_file_is_as_good_as_none() {
    let folder = Folder::new("torn");
    save(&two_texts(), NAME, &folder.file()).unwrap();
    let whole = fs::read(folder.file()).unwrap();
    for len in 0..whole.len() {
        fs::write(folder.file(), &whole[..len]).unwrap();
        assert!(loaded(&folder.file(), NAME).is_none(), "{len} of {} bytes", whole.len());
    }
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 0x10;
        fs::write(folder.file(), wrong).unwrap();
        assert!(loaded(&folder.file(), NAME).is_none(), "byte {at} is wrong");
    }
}

#[test]
fn a_foreign_file_is_as_good_as_none() {
    let folder = Folder::new("foreign");
    assert!(loaded(&folder.file(), NAME).is_none());
    save(&two_texts(), NAME, &folder.file()).unwrap();
    assert!(loaded(&folder.file(), "another tokenizer").is_none());
    assert_eq!(texts(&loaded(&folder.file(), NAME).unwrap()), texts(&two_texts()));
}

#[test]
fn a_file_is_replaced_as_a_whole_and_nobody_else_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("replaced");
    save(&two_texts(), NAME, &folder.file()).unwrap();
    save(&corpus(&[]), NAME, &folder.file()).unwrap();
    assert_eq!(loaded(&folder.file(), NAME).unwrap().len(), 0);
    assert_eq!(fs::read_dir(folder.file().parent().unwrap()).unwrap().count(), 1);
    let mode = fs::metadata(folder.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The file that `save` writes first: here a device that takes nothing.
fn break_disk(folder: &Folder, device: &str) -> PathBuf {
    let aside = folder.file().with_extension(format!("{}.tmp", std::process::id()));
    std::os::unix::fs::symlink(device, &aside).unwrap();
    aside
}

#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fails_costs_the_new_file_alone_and_leaves_no_rest() {
    let folder = Folder::new("full disk");
    save(&two_texts(), NAME, &folder.file()).unwrap();
    let more = corpus(&[(String::new(), (0..400).collect())]);
    // No space left, no such device, and an error of the medium.
    for device in ["/dev/full", "/nowhere/file", "/proc/self/mem"] {
        let aside = break_disk(&folder, device);
        save(&more, NAME, &folder.file()).unwrap_err();
        assert!(!aside.exists(), "{device} leaves a file");
        assert_eq!(texts(&loaded(&folder.file(), NAME).unwrap()), texts(&two_texts()), "{device}");
        fs::remove_file(aside).unwrap_or_default();
    }
    save(&more, NAME, &folder.file()).unwrap();
    assert_eq!(texts(&loaded(&folder.file(), NAME).unwrap()), texts(&more));
}

#[test]
fn an_archive_writes_what_is_new_when_it_is_due() {
    let folder = Folder::new("archive");
    let mut archive = Archive::new(Some(folder.0.clone()));
    let mut shared = two_texts();
    archive.fill(NAME, &mut shared);
    archive.save(NAME, &shared).unwrap();
    assert!(!folder.0.exists(), "nothing was new");
    shared.insert(&"".into(), &[7; 9]);
    archive.save(NAME, &shared).unwrap();
    let mut next = corpus(&[]);
    Archive::new(Some(folder.0.clone())).fill(NAME, &mut next);
    assert_eq!(texts(&next), texts(&shared));
    let second = 1_000_000_000;
    let due: Vec<_> = [0, 59, 60, 61, 119, 120].map(|at| archive.is_due(at * second)).into();
    assert_eq!(due, [false, false, true, false, false, true]);
    assert!(!Archive::new(None).is_due(u64::MAX));
}
