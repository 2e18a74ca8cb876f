//! From what runs to how it lies: rectangles over the slabs, and the packed tokens.
//!
//! Exact layout: neighbouring decode rows share a rectangle of their common width; what a row has
//! beyond that, and every prefill chunk, is a rectangle of one row. No padding at all.
//! Padded layout: every slab with decode rows is one rectangle over all its slots, all of them as
//! wide as the step's longest draft rounded up to one of a few widths; prefill chunks are padded
//! too. The device sees few shapes. Padding is written behind a row's tokens and overwritten later.

use crate::action::{PlannedRow, Rect, Sampler, StepPlan};
use crate::config::ModelShape;
use crate::draft_len::DRAFT_WIDTHS;
use crate::edits::push_edits;
use crate::ids::{ModelId, Row, SlabId};
use crate::request::Request;
use crate::rows::RowPool;

/// Prefill chunks are padded to multiples of this many tokens.
const PREFILL_PAD: u32 = 64;

struct Placed<'a> {
    planned: &'a PlannedRow,
    request: &'a Request,
    row: Row,
    /// Where its tokens lie in the step: `num_head` of them from `head` on, the others from `rest`.
    head: u32,
    num_head: u32,
    rest: u32,
}

impl Placed<'_> {
    fn width(&self) -> u32 {
        self.planned.num_new + self.planned.drafts.len() as u32
    }

    fn is_decoding(&self) -> bool {
        self.planned.num_new == 1
    }

    /// Index in the step of one of its tokens.
    fn at(&self, offset: u32) -> u32 {
        match offset.checked_sub(self.num_head) {
            None => self.head + offset,
            Some(behind) => self.rest + behind,
        }
    }

    fn token(&self, offset: u32) -> u32 {
        let known = self.planned.num_new;
        if offset < known {
            self.request.tokens[(self.request.num_computed + offset) as usize]
        } else {
            self.planned.drafts.get((offset - known) as usize).map_or(0, |draft| draft.token)
        }
    }
}

/// Lay out the planned rows of one model; `running` is in order of ids.
pub fn lay_out(
    model: ModelId,
    rows: Vec<PlannedRow>,
    running: &[Request],
    pool: &RowPool,
    shape: &ModelShape,
) -> StepPlan {
    let mut plan = StepPlan {
        model,
        kv_ops: Vec::new(),
        rows: Vec::new(),
        rects: Vec::new(),
        tokens: Vec::new(),
        positions: Vec::new(),
        samplers: Vec::new(),
        sampled: Vec::new(),
        noise: Vec::new(),
        edits: Vec::new(),
    };
    let mut placed: Vec<Placed<'_>> = rows
        .iter()
        .filter_map(|planned| {
            let request = &running[planned.index];
            Some(Placed { planned, request, row: request.row?, head: 0, num_head: 0, rest: 0 })
        })
        .collect();
    placed.sort_unstable_by_key(|it| it.row);
    let decode_width = padded_width(&placed);
    let mut layout = Layout { plan: &mut plan, running, pool, shape, decode_width };
    for group in placed.chunk_by_mut(|a, b| a.row.slab == b.row.slab) {
        layout.slab(group);
    }
    placed.sort_unstable_by_key(|it| it.planned.index);
    for it in &placed {
        sample(&mut plan, it);
    }
    drop(placed);
    plan.rows = rows;
    plan
}

/// The longest decode row, rounded up to one of a few widths.
fn padded_width(placed: &[Placed<'_>]) -> u32 {
    let longest = placed.iter().filter(|it| it.is_decoding()).map(Placed::width).max().unwrap_or(1);
    let widths = DRAFT_WIDTHS.iter().map(|&drafts| drafts as u32 + 1);
    std::iter::once(1).chain(widths).find(|&width| width >= longest).unwrap_or(longest)
}

/// Ask for the logits of the last known token and of every draft.
fn sample(plan: &mut StepPlan, it: &Placed<'_>) {
    if !it.planned.samples {
        return;
    }
    let sampling = &it.request.sampling;
    let (last, first) = (it.planned.num_new - 1, plan.sampled.len() as u32);
    push_edits(it.request, &it.planned.drafts, first, &mut plan.edits);
    plan.samplers.push(Sampler {
        first,
        num_drafts: it.planned.drafts.len() as u32,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        top_k: sampling.top_k,
        xtc_probability: sampling.xtc.probability,
        xtc_threshold: sampling.xtc.threshold,
        logprobs: sampling.logprobs,
        constraint: sampling.constraint,
    });
    for offset in 0..=it.planned.drafts.len() as u32 {
        plan.sampled.push(it.at(last + offset));
        plan.noise.push(it.request.noise_key(it.request.len() + offset));
    }
}

struct Layout<'a> {
    plan: &'a mut StepPlan,
    running: &'a [Request],
    pool: &'a RowPool,
    shape: &'a ModelShape,
    /// Padded layout: the width of all rectangles of decode rows.
    decode_width: u32,
}

impl Layout<'_> {
    fn slab(&mut self, group: &mut [Placed<'_>]) {
        if self.shape.padded {
            self.padded_decode(group);
        } else {
            let joins = |a: &Placed<'_>, b: &Placed<'_>| {
                a.is_decoding() && b.is_decoding() && a.row.slot + 1 == b.row.slot
            };
            for run in group.chunk_by_mut(joins).filter(|run| run[0].is_decoding()) {
                let width = run.iter().map(Placed::width).min().unwrap_or(1);
                self.rect(run, width);
            }
        }
        for it in group.iter_mut().filter(|it| it.num_head < it.width()) {
            self.rest(it);
        }
    }

    /// One rectangle over neighbouring rows, from their next token on.
    fn rect(&mut self, run: &mut [Placed<'_>], width: u32) {
        self.open(run[0].row, run.len() as u32, width);
        for it in run {
            self.push_row(it, width);
        }
        self.close();
    }

    /// The remaining tokens of one row.
    fn rest(&mut self, it: &mut Placed<'_>) {
        let left = it.width() - it.num_head;
        let width = if self.shape.padded { left.next_multiple_of(PREFILL_PAD) } else { left };
        it.rest = self.plan.tokens.len() as u32;
        self.open(it.row, 1, width);
        self.push_tokens(it, it.num_head, width);
        self.close();
    }

    /// All slots of the slab as one rectangle; slots that do not decode get padding.
    fn padded_decode(&mut self, group: &mut [Placed<'_>]) {
        if !group.iter().any(Placed::is_decoding) {
            return;
        }
        let (slab, width) = (group[0].row.slab, self.decode_width);
        let slots = self.pool.slab(slab).map_or(0, |it| it.slots.len() as u32);
        self.open(Row { slab, slot: 0 }, slots, width);
        let mut decoding = group.iter_mut().filter(|it| it.is_decoding()).peekable();
        for slot in 0..slots {
            match decoding.next_if(|it| it.row.slot == slot) {
                Some(it) => self.push_row(it, width),
                None => self.push_padding(slab, slot, width),
            }
        }
        self.close();
    }

    fn open(&mut self, row: Row, rows: u32, width: u32) {
        let first = self.plan.tokens.len() as u32;
        self.plan.rects.push(Rect { slab: row.slab, slot: row.slot, rows, width, first, view: 0 });
    }

    fn push_row(&mut self, it: &mut Placed<'_>, width: u32) {
        (it.head, it.num_head) = (self.plan.tokens.len() as u32, width.min(it.width()));
        self.push_tokens(it, 0, width);
    }

    fn push_tokens(&mut self, it: &Placed<'_>, from: u32, width: u32) {
        let start = it.request.num_computed;
        self.plan.tokens.extend((from..from + width).map(|offset| it.token(offset)));
        self.plan.positions.extend(start + from..start + from + width);
    }

    /// Padding of a slot that does not decode: behind the tokens of its owner, if it has one. An
    /// owner that prefills in this step writes over it, as its rectangle comes later.
    fn push_padding(&mut self, slab: SlabId, slot: u32, width: u32) {
        let owner = self.pool.slab(slab).and_then(|it| it.request(slot));
        let find = |id| self.running.binary_search_by_key(&id, |request| request.id).ok();
        let start = owner.and_then(find).map_or(0, |index| self.running[index].num_computed);
        self.plan.tokens.extend((0..width).map(|_| 0));
        self.plan.positions.extend(start..start + width);
    }

    /// Attention of the rectangle sees all positions up to its last token.
    fn close(&mut self) {
        let Some(rect) = self.plan.rects.last_mut() else {
            return;
        };
        let first = rect.first as usize;
        let end = self.plan.positions[first..].iter().max().map_or(0, |last| last + 1);
        let capacity = self.pool.capacity(Row { slab: rect.slab, slot: rect.slot });
        rect.view = end.next_multiple_of(self.shape.view_step.max(1)).min(capacity);
    }
}
