//! What holds for every plan, whatever runs.

use std::collections::BTreeMap;

use mlxspec_scheduler::action::{Rect, StepPlan};
use mlxspec_scheduler::config::ModelShape;
use mlxspec_scheduler::ids::{Row, SlabId};

use super::kv::Slab;
use super::script::PADDING;

/// A rectangle row by row: slot, first position, tokens.
pub(crate) fn parts<'a>(
    plan: &'a StepPlan,
    rect: &'a Rect,
) -> impl Iterator<Item = (u32, u32, &'a [u32])> {
    (0..rect.rows).map(move |row| {
        let first = (rect.first + row * rect.width) as usize;
        let tokens = &plan.tokens[first..first + rect.width as usize];
        (rect.slot + row, plan.positions[first], tokens)
    })
}

/// The slot and the rectangle of a token.
pub(crate) fn locate(plan: &StepPlan, index: usize) -> (u32, &Rect) {
    locate_in(&plan.rects, index)
}

/// The same in any forward's rectangles.
pub(crate) fn locate_in(rects: &[Rect], index: usize) -> (u32, &Rect) {
    let index = index as u32;
    let holds = |rect: &&Rect| (rect.first..rect.first + rect.rows * rect.width).contains(&index);
    let rect = rects.iter().find(holds).expect("the token lies in a rectangle");
    (rect.slot + (index - rect.first) / rect.width, rect)
}

/// Fails unless the plan is well formed and lies inside its slabs.
pub(crate) fn check(plan: &StepPlan, shape: &ModelShape, slabs: &BTreeMap<SlabId, Slab>) {
    check_tables(plan);
    check_budget(plan, shape);
    let mut first = 0;
    for rect in &plan.rects {
        assert_eq!(rect.first, first, "rectangles do not tile the tokens");
        assert!(rect.rows > 0 && rect.width > 0, "an empty rectangle");
        first += rect.rows * rect.width;
        check_rect(plan, rect, shape, &slabs[&rect.slab]);
    }
    assert_eq!(first as usize, plan.tokens.len(), "rectangles do not tile the tokens");
    check_overlap(plan, shape);
}

fn check_tables(plan: &StepPlan) {
    assert_eq!(plan.tokens.len(), plan.positions.len());
    assert_eq!(plan.sampled.len(), plan.noise.len());
    assert!(plan.sampled.iter().all(|&index| (index as usize) < plan.tokens.len()));
    let sampling: Vec<_> = plan.rows.iter().filter(|it| it.samples).collect();
    assert_eq!(sampling.len(), plan.samplers.len(), "one sampler per sampling row");
    let mut first = 0;
    for (row, sampler) in sampling.iter().zip(&plan.samplers) {
        assert_eq!(sampler.first, first, "samplers do not tile the sampled positions");
        assert_eq!(sampler.num_drafts as usize, row.num_drafts());
        assert!(row.drafts.is_empty() || row.num_unwritten == 0, "two drafters for one row");
        first += sampler.num_drafts + 1;
    }
    assert_eq!(first as usize, plan.sampled.len(), "samplers do not tile the sampled positions");
    assert!(plan.rows.iter().all(|it| it.samples || it.num_drafts() == 0), "drafts in mid-prompt");
}

/// Decoding rows always run; prefill and drafts share what they leave, prefill at least one token.
fn check_budget(plan: &StepPlan, shape: &ModelShape) {
    let single = plan.rows.iter().filter(|it| it.num_new == 1).count() as u32;
    let tokens: u32 = plan.rows.iter().map(|it| it.num_new + it.num_drafts() as u32).sum();
    assert!(tokens <= shape.step_tokens.max(single + 1), "{tokens} tokens in a step");
    let decodes = plan.rows.iter().any(|it| it.num_new == 1 && it.samples);
    let prefill: u32 = plan.rows.iter().map(|it| it.num_new).filter(|&it| it > 1).sum();
    assert!(!decodes || prefill <= shape.prefill_chunk.max(1), "{prefill} tokens stall the others");
}

fn check_rect(plan: &StepPlan, rect: &Rect, shape: &ModelShape, slab: &Slab) {
    let capacity = slab.capacity();
    assert!(rect.slot + rect.rows <= slab.slots(), "a rectangle leaves its slab");
    let mut longest = 0;
    for (_, start, _) in parts(plan, rect) {
        longest = longest.max(start + rect.width);
    }
    let range = rect.first as usize..(rect.first + rect.rows * rect.width) as usize;
    for row in plan.positions[range].chunks(rect.width as usize) {
        assert!(row.windows(2).all(|two| two[0] + 1 == two[1]), "a row skips a position");
    }
    assert!(longest <= capacity, "{longest} positions in a row of {capacity}");
    assert!((longest..=capacity).contains(&rect.view), "view {} of {longest}", rect.view);
    let stepped = rect.view.is_multiple_of(shape.view_step.max(1));
    assert!(stepped || rect.view == capacity, "view {} is one more shape", rect.view);
}

/// A row's part of one rectangle: its first position, and its tokens.
type Piece<'a> = (u32, &'a [u32]);

/// A row is in two rectangles at most: its first tokens and its rest, or padding and its prefill.
fn check_overlap(plan: &StepPlan, shape: &ModelShape) {
    let mut seen: BTreeMap<Row, Vec<Piece<'_>>> = BTreeMap::new();
    for rect in &plan.rects {
        for (slot, start, tokens) in parts(plan, rect) {
            seen.entry(Row { slab: rect.slab, slot }).or_default().push((start, tokens));
        }
    }
    for pieces in seen.values() {
        match pieces.as_slice() {
            [_] => {}
            [(start, tokens), (rest, _)] if shape.padded => {
                assert!(tokens.iter().all(|&it| it == PADDING), "tokens are written twice");
                assert_eq!(start, rest, "padding in the midst of a row");
            }
            [(start, tokens), (rest, _)] => {
                assert_eq!(start + tokens.len() as u32, *rest, "a row's pieces do not join");
            }
            _ => panic!("a row lies in {} rectangles", pieces.len()),
        }
    }
    let padding = plan.tokens.contains(&PADDING);
    assert!(shape.padded || !padding, "padding in an exact layout");
}
