//! The shared texts of all models between one server and the next: read at load, written when idle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::corpus::Corpus;
use crate::corpus_file;

/// Nanoseconds between two writes: what a crash may lose.
const SAVE_EVERY_NS: u64 = 60_000_000_000;

/// A folder of one file per tokenizer. Without a folder, nothing is read or written.
#[derive(Debug)]
pub struct Archive {
    folder: Option<PathBuf>,
    /// How far each file reaches, see [`Corpus::progress`].
    saved: BTreeMap<String, u64>,
    next_save_ns: u64,
}

impl Archive {
    /// An archive in this folder, which is made when something is written.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, saved: BTreeMap::new(), next_save_ns: SAVE_EVERY_NS }
    }

    /// Fill an empty corpus with what an earlier server left for this tokenizer.
    pub fn fill(&mut self, fingerprint: &str, corpus: &mut Corpus) {
        if let Some(folder) = &self.folder {
            corpus_file::load(corpus, fingerprint, &file_of(folder, fingerprint));
            self.saved.insert(fingerprint.to_owned(), corpus.progress());
        }
    }

    /// Whether a write is due; time starts again.
    pub fn is_due(&mut self, now_ns: u64) -> bool {
        let due = self.folder.is_some() && now_ns >= self.next_save_ns;
        if due {
            self.next_save_ns = now_ns + SAVE_EVERY_NS;
        }
        due
    }

    /// Write a corpus that has grown since it was last written.
    ///
    /// # Errors
    /// When the file cannot be written; the next write tries again.
    pub fn save(&mut self, fingerprint: &str, corpus: &Corpus) -> std::io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        if self.saved.get(fingerprint) != Some(&corpus.progress()) {
            corpus_file::save(corpus, fingerprint, &file_of(folder, fingerprint))?;
            self.saved.insert(fingerprint.to_owned(), corpus.progress());
        }
        Ok(())
    }
}

fn file_of(folder: &Path, fingerprint: &str) -> PathBuf {
    folder.join(format!("{fingerprint}.texts"))
}
