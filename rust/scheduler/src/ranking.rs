//! Draft positions of all rows, likeliest first, without sorting those that nobody gets to.
//!
//! Survival falls along a row, so the next position in the order is always the next one of some row: a
//! heap of one position a row gives them in turn, `S` of `B` rows in `O(B + S log B)`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::draft_len::Candidate;

/// One draft position of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    /// Chance that it is reached and kept.
    pub(crate) survival: f32,
    /// The row's index among the candidates.
    pub(crate) row: u32,
    /// Its place in the row's draft.
    pub(crate) at: u32,
}

impl Ord for Position {
    /// The likelier one is greater; of equals that of the first row.
    fn cmp(&self, other: &Self) -> Ordering {
        self.survival.total_cmp(&other.survival).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Position {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Position {}

/// The order; its memory is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Ranking {
    next_of_rows: BinaryHeap<Position>,
}

impl Ranking {
    /// Begin with the first position of every row.
    pub(crate) fn restart(&mut self, candidates: &[Candidate]) {
        let mut positions = std::mem::take(&mut self.next_of_rows).into_vec();
        positions.clear();
        positions.extend(candidates.iter().enumerate().filter_map(|(row, candidate)| {
            let &survival = candidate.survival.first()?;
            Some(Position { survival, row: row as u32, at: 0 })
        }));
        self.next_of_rows = positions.into();
    }

    /// The likeliest position that was not returned yet.
    pub(crate) fn next(&mut self, candidates: &[Candidate]) -> Option<Position> {
        let mut top = self.next_of_rows.peek_mut()?;
        let position = *top;
        let row = &candidates[position.row as usize];
        match row.survival.get(position.at as usize + 1) {
            Some(&survival) => *top = Position { survival, at: position.at + 1, ..position },
            None => {
                PeekMut::pop(top);
            }
        }
        Some(position)
    }
}
