//! The folder that keeps segments: `<name>.safetensors`, written and read by the runner.
//!
//! Modification times say what was used last. Files of other names are not ours and stay.

use std::fs::{DirBuilder, File, read_dir, remove_file};
use std::io::Result;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::segment::SegmentName;
use crate::segment_index::SegmentIndex;

const ENDING: &str = ".safetensors";
/// What a segment is called until all of it is written.
const UNFINISHED: &str = ".safetensors.tmp";

/// A folder of segments of any number of models.
#[derive(Debug, Clone)]
pub struct SegmentFolder(PathBuf);

impl SegmentFolder {
    /// Make the folder if it is not there; then nobody else may look into it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> Result<Self> {
        private_builder().recursive(true).create(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// Its segments with their bytes, least recently used first. What a server left half written when
    /// it died is removed.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<(SegmentName, u64)>> {
        let mut found: Vec<(SystemTime, SegmentName, u64)> = Vec::new();
        for entry in read_dir(&self.0)?.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.strip_suffix(UNFINISHED).and_then(SegmentName::parse).is_some() {
                // It would only take up room.
                let _ = remove_file(entry.path());
            }
            if let Some(name) = name.strip_suffix(ENDING).and_then(SegmentName::parse)
                && let Ok(facts) = entry.metadata()
            {
                let used = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((used, name, facts.len()));
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, name, num_bytes)| (name, num_bytes)).collect())
    }

    /// Where a segment lies, or is to be.
    pub fn path(&self, name: SegmentName) -> PathBuf {
        self.0.join(format!("{name}{ENDING}"))
    }

    /// Remove what the index has given up, and note for the next server what was of use.
    pub fn follow(&self, index: &mut SegmentIndex) {
        for name in index.take_used() {
            // Missed, it is evicted a little sooner.
            let _ = File::options()
                .append(true)
                .open(self.path(name))
                .and_then(|file| file.set_modified(SystemTime::now()));
        }
        for name in index.take_doomed() {
            // If it is still there, the next server counts it again.
            let _ = remove_file(self.path(name));
        }
    }
}

#[cfg(unix)]
fn private_builder() -> DirBuilder {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

#[cfg(not(unix))]
fn private_builder() -> DirBuilder {
    DirBuilder::new()
}
