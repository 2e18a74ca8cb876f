//! Draft positions of all rows, likeliest first, without sorting those that nobody gets to.
//!
//! Survival falls along a row, so the next position in the order is always the next one of some row: a
//! heap of one position a row gives them in turn, `S` of `B` rows in `O(B + S log B)`.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::draft_len::Candidate;

const AT_BITS: u32 = 8;
const ROW_BITS: u32 = 24;

/// One draft position of a row, in one word that orders it: the likelier one is greater; of equals
/// that of the first row.
///
/// ```text
/// survival: bits of a positive f32, which are ordered as it is | row, inverted: 24 | place: 8
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position(u64);

impl Position {
    fn new(survival: f32, row: u32, at: u32) -> Self {
        debug_assert!(survival >= 0.0 && row >> ROW_BITS == 0 && at >> AT_BITS == 0);
        let place = (!row << AT_BITS) | at;
        Self(u64::from(survival.to_bits()) << (ROW_BITS + AT_BITS) | u64::from(place))
    }

    /// Chance that it is reached and kept.
    pub(crate) fn survival(self) -> f32 {
        f32::from_bits((self.0 >> (ROW_BITS + AT_BITS)) as u32)
    }

    /// The row's index among the candidates.
    pub(crate) fn row(self) -> u32 {
        !(self.0 as u32) >> AT_BITS
    }

    /// Its place in the row's draft.
    pub(crate) fn at(self) -> u32 {
        self.0 as u32 & ((1 << AT_BITS) - 1)
    }
}

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
        positions.extend(candidates.iter().zip(0..).filter_map(|(candidate, row)| {
            Some(Position::new(*candidate.survival.first()?, row, 0))
        }));
        self.next_of_rows = positions.into();
    }

    /// The likeliest position that was not returned yet.
    pub(crate) fn next(&mut self, candidates: &[Candidate]) -> Option<Position> {
        let mut top = self.next_of_rows.peek_mut()?;
        let position = *top;
        let (row, next) = (position.row(), position.at() + 1);
        match candidates[row as usize].survival.get(next as usize) {
            Some(&survival) => *top = Position::new(survival, row, next),
            None => {
                PeekMut::pop(top);
            }
        }
        Some(position)
    }
}
