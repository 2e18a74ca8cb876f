//! From what runs to how it lies: rectangles over the slabs, and the packed tokens.
//!
//! Exact layout: neighbouring decode rows share a rectangle of their common width; what a row has
//! beyond that, and every prefill chunk, is a rectangle of one row. No padding at all.
//! Padded layout: every slab with decode rows is one rectangle over all its slots, all of them as
//! wide as the step's longest draft rounded up to one of a few widths; prefill chunks are padded
//! too. The device sees few shapes. Padding is written behind a row's tokens and overwritten later.

use crate::action::{Harvest, Laid, PlannedRow, Rect, Sampler, StepPlan};
use crate::config::ModelShape;
use crate::draft_len::DRAFT_WIDTHS;
use crate::edits::push_edits;
use crate::ids::{ModelId, Row, SlabId};
use crate::request::Request;
use crate::rows::RowPool;

/// Prefill chunks are padded to multiples of this many tokens.
const PREFILL_PAD: u32 = 64;

/// What one row computes in one forward.
pub(crate) struct Placed<'a> {
    pub(crate) planned: &'a PlannedRow,
    pub(crate) request: &'a Request,
    pub(crate) row: Row,
    /// Position of its first token.
    pub(crate) start: u32,
    /// Known tokens; drafts stand behind them.
    pub(crate) num_known: u32,
    /// Drafts, of which the runner fills in those that are not known yet.
    pub(crate) num_drafts: u32,
    /// Whether it shares a rectangle with its neighbours.
    pub(crate) joins: bool,
    /// Where its tokens lie in the forward: `num_head` of them from `head` on, the others from `rest`.
    head: u32,
    num_head: u32,
    rest: u32,
}

impl<'a> Placed<'a> {
    /// The target's part: `None` for a request without a row.
    fn verifying(planned: &'a PlannedRow, running: &'a [Request]) -> Option<Self> {
        let request = &running[planned.index];
        Some(Self {
            num_drafts: planned.num_drafts() as u32,
            joins: planned.num_new == 1,
            ..Self::reading(planned, request, request.num_computed, planned.num_new)?
        })
    }

    /// `num_known` known tokens from `start` on.
    pub(crate) fn reading(
        planned: &'a PlannedRow,
        request: &'a Request,
        start: u32,
        num_known: u32,
    ) -> Option<Self> {
        Some(Self {
            planned,
            request,
            row: request.row?,
            start,
            num_known,
            num_drafts: 0,
            joins: false,
            head: 0,
            num_head: 0,
            rest: 0,
        })
    }

    fn width(&self) -> u32 {
        self.num_known + self.num_drafts
    }

    /// Index in the forward of one of its tokens.
    pub(crate) fn at(&self, offset: u32) -> u32 {
        match offset.checked_sub(self.num_head) {
            None => self.head + offset,
            Some(behind) => self.rest + behind,
        }
    }

    /// One of its tokens; 0 for padding, and for drafts that are not known yet.
    fn token(&self, offset: u32) -> u32 {
        let Some(nth) = offset.checked_sub(self.num_known) else {
            return self.request.tokens[(self.start + offset) as usize];
        };
        let draft = self.planned.drafts.get(nth as usize).filter(|_| nth < self.num_drafts);
        draft.map_or(0, |draft| draft.token)
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
    let mut placed: Vec<Placed<'_>> =
        rows.iter().filter_map(|planned| Placed::verifying(planned, running)).collect();
    let computed: Vec<u32> = running.iter().map(|request| request.num_computed).collect();
    let field = Field { running, computed: &computed, pool, shape };
    let laid = field.lay(&mut placed);
    let mut plan = StepPlan::of(model, laid);
    placed.sort_unstable_by_key(|it| it.planned.index);
    for it in &placed {
        sample(&mut plan, it);
        plan.harvests.extend(harvest(it));
    }
    drop(placed);
    plan.rows = rows;
    plan
}

/// The longest decode row, rounded up to one of a few widths.
fn padded_width(placed: &[Placed<'_>]) -> u32 {
    let longest = placed.iter().filter(|it| it.joins).map(Placed::width).max().unwrap_or(1);
    let widths = DRAFT_WIDTHS.iter().map(|&drafts| drafts as u32 + 1);
    std::iter::once(1).chain(widths).find(|&width| width >= longest).unwrap_or(longest)
}

/// What is gathered of the prompt's tokens among the known ones: these stand together.
fn harvest(it: &Placed<'_>) -> Option<Harvest> {
    let left = it.request.num_prompt.saturating_sub(it.start);
    let key = it.request.harvest;
    (key > 0 && left > 0).then(|| Harvest {
        key,
        first: it.at(0),
        count: it.num_known.min(left),
        start: it.start,
    })
}

/// Ask for the logits of the last known token and of every draft.
fn sample(plan: &mut StepPlan, it: &Placed<'_>) {
    if !it.planned.samples {
        return;
    }
    let sampling = &it.request.sampling;
    let (last, first) = (it.planned.num_new - 1, plan.sampled.len() as u32);
    push_edits(it.request, &it.planned.drafts, it.num_drafts, first, &mut plan.edits);
    plan.samplers.push(Sampler {
        first,
        num_drafts: it.num_drafts,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        top_k: sampling.top_k,
        xtc_probability: sampling.xtc.probability,
        xtc_threshold: sampling.xtc.threshold,
        logprobs: sampling.logprobs,
        constraint: sampling.constraint,
    });
    for offset in 0..=it.num_drafts {
        plan.sampled.push(it.at(last + offset));
        plan.noise.push(it.request.noise_key(it.request.len() + offset));
    }
}

/// Where forwards of one model are laid out.
pub(crate) struct Field<'a> {
    /// The running requests, in order of ids.
    pub(crate) running: &'a [Request],
    /// Of each, the positions that this model's KV holds already.
    pub(crate) computed: &'a [u32],
    pub(crate) pool: &'a RowPool,
    pub(crate) shape: &'a ModelShape,
}

impl Field<'_> {
    /// Lay out one forward; sorts the rows by where they lie.
    pub(crate) fn lay(&self, placed: &mut [Placed<'_>]) -> Laid {
        self.lay_ahead(placed, 0)
    }

    /// The same for a forward that is repeated, each time one position on, until `ahead` positions
    /// further: its views hold for all of them.
    pub(crate) fn lay_ahead(&self, placed: &mut [Placed<'_>], ahead: u32) -> Laid {
        placed.sort_unstable_by_key(|it| it.row);
        let decode_width = padded_width(placed);
        let mut layout = Layout { laid: Laid::default(), field: self, ahead, decode_width };
        for group in placed.chunk_by_mut(|a, b| a.row.slab == b.row.slab) {
            layout.slab(group);
        }
        layout.laid
    }
}

struct Layout<'a> {
    laid: Laid,
    field: &'a Field<'a>,
    ahead: u32,
    /// Padded layout: the width of all rectangles of decode rows.
    decode_width: u32,
}

impl Layout<'_> {
    fn slab(&mut self, group: &mut [Placed<'_>]) {
        if self.field.shape.padded {
            self.padded_decode(group);
        } else {
            let joins =
                |a: &Placed<'_>, b: &Placed<'_>| a.joins && b.joins && a.row.slot + 1 == b.row.slot;
            for run in group.chunk_by_mut(joins).filter(|run| run[0].joins) {
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
        let width = if self.field.shape.padded { left.next_multiple_of(PREFILL_PAD) } else { left };
        it.rest = self.laid.tokens.len() as u32;
        self.open(it.row, 1, width);
        self.push_tokens(it, it.num_head, width);
        self.close();
    }

    /// All slots of the slab as one rectangle; slots that do not decode get padding.
    fn padded_decode(&mut self, group: &mut [Placed<'_>]) {
        if !group.iter().any(|it| it.joins) {
            return;
        }
        let (slab, width) = (group[0].row.slab, self.decode_width);
        let slots = self.field.pool.slab(slab).map_or(0, |it| it.slots.len() as u32);
        self.open(Row { slab, slot: 0 }, slots, width);
        let mut decoding = group.iter_mut().filter(|it| it.joins).peekable();
        for slot in 0..slots {
            match decoding.next_if(|it| it.row.slot == slot) {
                Some(it) => self.push_row(it, width),
                None => self.push_padding(slab, slot, width),
            }
        }
        self.close();
    }

    fn open(&mut self, row: Row, rows: u32, width: u32) {
        let first = self.laid.tokens.len() as u32;
        self.laid.rects.push(Rect { slab: row.slab, slot: row.slot, rows, width, first, view: 0 });
    }

    fn push_row(&mut self, it: &mut Placed<'_>, width: u32) {
        (it.head, it.num_head) = (self.laid.tokens.len() as u32, width.min(it.width()));
        self.push_tokens(it, 0, width);
    }

    fn push_tokens(&mut self, it: &Placed<'_>, from: u32, width: u32) {
        let start = it.start;
        self.laid.tokens.extend((from..from + width).map(|offset| it.token(offset)));
        self.laid.positions.extend(start + from..start + from + width);
    }

    /// Padding of a slot that does not decode: behind the tokens of its owner, if it has one. An
    /// owner that prefills in this step writes over it, as its rectangle comes later.
    fn push_padding(&mut self, slab: SlabId, slot: u32, width: u32) {
        let owner = self.field.pool.slab(slab).and_then(|it| it.request(slot));
        let find = |id| self.field.running.iter().position(|request| request.id == id);
        let start = owner.and_then(find).map_or(0, |index| self.field.computed[index]);
        self.laid.tokens.extend((0..width).map(|_| 0));
        self.laid.positions.extend(start..start + width);
    }

    /// Attention of the rectangle sees all positions up to its last token.
    fn close(&mut self) {
        let Some(rect) = self.laid.rects.last_mut() else {
            return;
        };
        let first = rect.first as usize;
        let last = self.laid.positions[first..].iter().max();
        let end = last.map_or(0, |last| last + 1 + self.ahead);
        let capacity = self.field.pool.capacity(Row { slab: rect.slab, slot: rect.slot });
        rect.view = end.next_multiple_of(self.field.shape.view_step.max(1)).min(capacity);
    }
}
