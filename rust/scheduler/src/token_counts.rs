//! How often each token occurred in a request.

use rustc_hash::FxHashMap;

use crate::error::{IntegrityError, ensure};

/// The distinct tokens of a request and their counts in its output, in order of first occurrence.
///
/// Kept for requests with penalties alone. A step needs all of it as one table, so the table is
/// kept as it is sent: O(1) for each new token, one pass for each step.
#[derive(Debug, Default)]
pub struct TokenCounts {
    entries: Vec<(u32, u32)>,
    index: FxHashMap<u32, usize>,
}

impl TokenCounts {
    /// Take in a prompt: its tokens are known, and count nothing.
    pub fn read_prompt(&mut self, prompt: &[u32]) {
        for &token in prompt {
            self.entry(token);
        }
    }

    /// Count one token of the output.
    pub fn push(&mut self, token: u32) {
        let at = self.entry(token);
        self.entries[at].1 += 1;
    }

    /// Tokens and how often each is in the output; 0 for those of the prompt alone.
    pub fn entries(&self) -> &[(u32, u32)] {
        &self.entries
    }

    /// Where in [`Self::entries`] a token stands, if it occurred.
    pub fn position(&self, token: u32) -> Option<usize> {
        self.index.get(&token).copied()
    }

    fn entry(&mut self, token: u32) -> usize {
        let entries = &mut self.entries;
        *self.index.entry(token).or_insert_with(|| {
            entries.push((token, 0));
            entries.len() - 1
        })
    }

    /// Table and index tell of the same tokens.
    ///
    /// # Errors
    /// Names the first violation.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        ensure!(
            self.index.len() == self.entries.len(),
            "{} tokens indexed, {} counted",
            self.index.len(),
            self.entries.len()
        );
        for (at, &(token, _)) in self.entries.iter().enumerate() {
            ensure!(self.position(token) == Some(at), "token {token} is not where it is counted");
        }
        Ok(())
    }
}
