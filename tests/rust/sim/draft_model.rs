//! A simulated draft model: rows of its own that remember what it read, and drafts mostly right.

use std::collections::BTreeMap;

use mlxspec_scheduler::action::{Laid, Rect, StepPlan};
use mlxspec_scheduler::draft_plan::{DraftPlan, DraftingRow};
use mlxspec_scheduler::ids::SlabId;
use mlxspec_scheduler::rows::KvOp;

use super::kv::{SimRow, Slab};
use super::plan;
use super::script::{PADDING, Scripts, mix, next_token};

/// The draft model's KV, in slabs as the target's.
#[derive(Debug, Default)]
pub(crate) struct SimDraftModel {
    slabs: BTreeMap<SlabId, Slab>,
    /// Draft tokens written.
    pub(crate) written: u64,
    /// Known tokens read.
    pub(crate) read: u64,
}

impl SimDraftModel {
    pub(crate) fn apply(&mut self, op: &KvOp) {
        match *op {
            KvOp::Create { slab, slots, capacity } => {
                self.slabs.insert(slab, Slab::new(slots, capacity));
            }
            KvOp::Drop { slab } => {
                self.slabs.remove(&slab);
            }
            KvOp::Copy { from, to, num_tokens } => {
                let source = self.row(from.slab, from.slot);
                let head = source.head(source.valid().min(num_tokens));
                self.row(to.slab, to.slot).paste(&head);
            }
        }
    }

    pub(crate) fn scramble(&mut self, slab: SlabId) {
        self.slabs.get_mut(&slab).expect("both models have the same slabs").scramble();
    }

    fn row(&mut self, slab: SlabId, slot: u32) -> &mut SimRow {
        self.slabs.get_mut(&slab).expect("both models have the same slabs").row(slot)
    }

    /// Read and draft as planned; returns the step's tokens with the drafts in their places.
    pub(crate) fn run(&mut self, plan: &StepPlan, scripts: &Scripts) -> Vec<u32> {
        let mut tokens = plan.tokens.clone();
        let Some(draft) = &plan.draft else { return tokens };
        self.read(&draft.read);
        for nth in 0..draft.num_rounds {
            if nth > 0 {
                self.pad(draft, nth - 1);
            }
            for row in &draft.rows {
                self.draft(plan, draft, row, nth, scripts, &mut tokens);
            }
        }
        tokens
    }

    /// Draw one row's `nth` draft, and write it where the next round reads it.
    fn draft(
        &mut self,
        plan: &StepPlan,
        draft: &DraftPlan,
        row: &DraftingRow,
        nth: u32,
        scripts: &Scripts,
        tokens: &mut [u32],
    ) {
        let (slot, rect) = locate(&draft.read, row.read_at);
        let position = draft.read.positions[row.read_at as usize] + nth;
        let sampler = &plan.samplers[row.sampler as usize];
        let cells = self.row(rect.slab, slot);
        let known = draft.read.positions[row.read_at as usize];
        let script = scripts.get(cells.owner(known + 1));
        if nth == 0 {
            cells.assert_holds(&script.tokens[..=position as usize]);
        }
        let entry = sampler.first + nth.min(sampler.num_drafts);
        let noise = (sampler.temperature > 0.0).then_some(plan.noise[entry as usize]);
        let right = next_token(&cells.read(position), noise);
        let token = if mix(u64::from(position)).is_multiple_of(5) { right % 5 + 1 } else { right };
        if nth + 1 < draft.num_rounds {
            let (round_slot, round_rect) = locate(&draft.round, row.round_at);
            assert_eq!((round_slot, round_rect.slab), (slot, rect.slab), "rounds in another row");
            let at = draft.round.positions[row.round_at as usize] + nth;
            assert_eq!(at, position + 1, "a round at another position");
            assert!(round_rect.view > at, "a drafted token does not see itself");
            self.row(rect.slab, slot).write(at, &[token]);
        }
        if nth < row.num_drafts {
            assert_eq!(row.num_drafts, sampler.num_drafts);
            let place = &mut tokens[plan.sampled[(sampler.first + 1 + nth) as usize] as usize];
            assert_eq!(std::mem::replace(place, token), 0, "a known token is drafted over");
            self.written += 1;
        }
    }

    /// Write the known tokens, and padding beside them.
    fn read(&mut self, laid: &Laid) {
        for rect in &laid.rects {
            for (slot, start, tokens) in rows(laid, rect) {
                let cells = self.row(rect.slab, slot);
                let end = start + rect.width;
                assert!(end <= cells.capacity().min(rect.view), "beyond the row or the view");
                cells.write(start, tokens);
                self.read += tokens.iter().filter(|&&token| token != PADDING).count() as u64;
            }
        }
    }

    /// Write a round's padding: whoever drafts is written when it does.
    fn pad(&mut self, draft: &DraftPlan, further: u32) {
        let laid = &draft.round;
        let drafts = draft.rows.iter().map(|row| locate(laid, row.round_at));
        let drafts: Vec<_> = drafts.map(|(slot, rect)| (rect.slab, slot)).collect();
        for rect in &laid.rects {
            for (slot, start, _) in rows(laid, rect) {
                let cells = self.row(rect.slab, slot);
                assert!(start + further < cells.capacity().min(rect.view), "beyond the row");
                if !drafts.contains(&(rect.slab, slot)) {
                    if start > 0 && start < cells.end() {
                        // Left by an earlier owner; if it was not, the next read finds out.
                        cells.keep(start);
                    }
                    cells.write(start + further, &[0]);
                }
            }
        }
    }

    /// The step is over: keep what each row has read, and of its drafts what was kept.
    pub(crate) fn settle(&mut self, plan: &StepPlan, accepted: &[u32]) {
        let Some(draft) = &plan.draft else { return };
        let mut valid: BTreeMap<(SlabId, u32), u32> = BTreeMap::new();
        for rect in &draft.read.rects {
            for (slot, start, tokens) in rows(&draft.read, rect) {
                let known = tokens.iter().take_while(|&&token| token != 0).count() as u32;
                if known > 0 {
                    let end = valid.entry((rect.slab, slot)).or_default();
                    *end = (start + known).max(*end);
                }
            }
        }
        for row in &draft.rows {
            let (slot, rect) = locate(&draft.read, row.read_at);
            let kept = accepted[row.sampler as usize].min(draft.num_rounds - 1);
            *valid.get_mut(&(rect.slab, slot)).expect("who drafts has read") += kept;
        }
        for ((slab, slot), end) in valid {
            self.row(slab, slot).keep(end);
        }
    }
}

/// A rectangle row by row: slot, first position, tokens.
fn rows<'a>(laid: &'a Laid, rect: &Rect) -> impl Iterator<Item = (u32, u32, &'a [u32])> {
    let (first, width, slot) = (rect.first as usize, rect.width as usize, rect.slot);
    (0..rect.rows).map(move |row| {
        let at = first + row as usize * width;
        (slot + row, laid.positions[at], &laid.tokens[at..at + width])
    })
}

fn locate(laid: &Laid, index: u32) -> (u32, &Rect) {
    plan::locate_in(&laid.rects, index as usize)
}
