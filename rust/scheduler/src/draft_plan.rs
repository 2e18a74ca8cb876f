//! The draft model's part of a step, carried out before the target's.
//!
//! It reads the known tokens that it has not seen, then drafts in rounds: each round takes the token
//! drafted last, one position further, and draws the next. What it draws goes into the places that
//! the step keeps free for drafts.
//!
//! ```text
//!          seen before   read now   rounds
//! row 0    ...........   a b        d1 d2 d3     three drafts to verify
//! row 1    ...........   c          e1 e2 e3     one: the others are made along, and dropped
//! row 2    .....         p q r s                 reads on
//! ```
//!
//! The KV that it writes for its own drafts stays: where they are kept, it need not read them again.

use crate::action::{Laid, PlannedRow, Rect};
use crate::config::ModelShape;
use crate::layout::{Field, Placed};
use crate::request::Request;
use crate::rows::RowPool;

/// As many tokens behind, a row shares a rectangle with its neighbours: it is one or two behind after
/// a draft that was kept in part or whole.
pub(crate) const NEARLY_READ: u32 = 2;

/// A row that the draft model drafts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftingRow {
    /// Index of its sampler in the step.
    pub sampler: u32,
    /// Drafts to verify; at most as many as there are rounds.
    pub num_drafts: u32,
    /// Index of its last known token in `read`.
    pub read_at: u32,
    /// Index of its token in each further round.
    pub round_at: u32,
}

/// What the draft model does in a step.
#[derive(Debug, Clone)]
pub struct DraftPlan {
    /// Known tokens to read; the first round draws behind them.
    pub read: Laid,
    /// One token per drafting row, as it lies in the second round; later ones are further on by one
    /// position each. Empty where there is one round or none.
    pub round: Laid,
    /// Who drafts.
    pub rows: Vec<DraftingRow>,
    /// Tokens drafted for each of them.
    pub num_rounds: u32,
}

impl DraftPlan {
    /// Lay out what the planned rows have the draft model read and write; `None` if nothing.
    pub(crate) fn of(
        rows: &[PlannedRow],
        running: &[Request],
        pool: &RowPool,
        shape: &ModelShape,
    ) -> Option<Box<Self>> {
        if rows.iter().all(|it| it.num_read == 0) {
            return None;
        }
        let num_rounds = rows.iter().map(|it| it.num_unwritten).max().unwrap_or(0);
        let mut computed: Vec<u32> = running.iter().map(|request| request.num_read).collect();
        let mut reading: Vec<Placed<'_>> =
            rows.iter().filter_map(|planned| reading(planned, running)).collect();
        let read = Field { running, computed: &computed, pool, shape }.lay(&mut reading);
        for planned in rows {
            computed[planned.index] += planned.num_read;
        }
        let mut drafting: Vec<Placed<'_>> =
            rows.iter().filter_map(|planned| drafting(planned, running)).collect();
        let field = Field { running, computed: &computed, pool, shape };
        let round = match num_rounds.checked_sub(2) {
            None => Laid::default(),
            Some(further) => field.lay_ahead(&mut drafting, further),
        };
        let rows = drafting_rows(rows, &mut reading, &mut drafting);
        Some(Box::new(Self { read, round, rows, num_rounds }))
    }

    /// Pack it behind the step: a header of 6 words (rectangles and tokens to read, rectangles and
    /// tokens of a round, drafting rows, rounds), then rectangles, tokens and positions to read,
    /// rectangles and positions of a round, and four words per drafting row.
    pub(crate) fn pack(&self, words: &mut Vec<u32>) {
        words.extend([
            self.read.rects.len() as u32,
            self.read.tokens.len() as u32,
            self.round.rects.len() as u32,
            self.round.tokens.len() as u32,
            self.rows.len() as u32,
            self.num_rounds,
        ]);
        words.extend(self.read.rects.iter().flat_map(Rect::pack));
        words.extend(&self.read.tokens);
        words.extend(&self.read.positions);
        words.extend(self.round.rects.iter().flat_map(Rect::pack));
        words.extend(&self.round.positions);
        words.extend(
            self.rows.iter().flat_map(|it| [it.sampler, it.num_drafts, it.read_at, it.round_at]),
        );
    }
}

fn reading<'a>(planned: &'a PlannedRow, running: &'a [Request]) -> Option<Placed<'a>> {
    let request = &running[planned.index];
    let mut read = Placed::reading(planned, request, request.num_read, planned.num_read)?;
    read.joins = planned.num_read <= NEARLY_READ;
    (planned.num_read > 0).then_some(read)
}

/// The first drafted token, which follows the known ones.
fn drafting<'a>(planned: &'a PlannedRow, running: &'a [Request]) -> Option<Placed<'a>> {
    let request = &running[planned.index];
    let mut behind = Placed::reading(planned, request, request.len(), 0)?;
    (behind.num_drafts, behind.joins) = (1, true);
    (planned.num_unwritten > 0).then_some(behind)
}

fn drafting_rows(
    rows: &[PlannedRow],
    reading: &mut [Placed<'_>],
    drafting: &mut [Placed<'_>],
) -> Vec<DraftingRow> {
    reading.sort_unstable_by_key(|it| it.planned.index);
    drafting.sort_unstable_by_key(|it| it.planned.index);
    let mut rounds = drafting.iter();
    let mut reads = reading.iter().filter(|it| it.planned.num_unwritten > 0);
    let samplers = rows.iter().filter(|it| it.samples).zip(0..);
    samplers
        .filter(|(planned, _)| planned.num_unwritten > 0)
        .filter_map(|(planned, sampler)| {
            Some(DraftingRow {
                sampler,
                num_drafts: planned.num_unwritten,
                read_at: reads.next()?.at(planned.num_read - 1),
                round_at: rounds.next()?.at(0),
            })
        })
        .collect()
}
