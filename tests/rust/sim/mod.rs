//! A simulated runner: a pure model, and KV rows that remember what was really written.
//!
//! The next token of a row is a hash of all its tokens (and of the noise key, if it samples), most
//! of the time bent towards the token a few positions back, so that drafts are often right. Rows
//! hold what the plan told the runner to write, and reading them back checks every position that
//! attention would see. A plan that misplaces one token, reads a stale position or mixes up two
//! rows panics at once.
//!
//! A token of each prompt names its [`script::Script`]: what the request must become, alone. It is the
//! first one, or the first after a beginning that the prompt has in common with an earlier one.

#![allow(dead_code, reason = "every test target uses its own part")]
#![allow(clippy::panic, clippy::missing_panics_doc, reason = "a violation fails the test")]

pub(crate) mod disk;
pub(crate) mod draft_model;
pub(crate) mod kv;
pub(crate) mod plan;
pub(crate) mod script;
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlxspec_scheduler::action::{LoadEnd, Rect, StepOutcome, StepPlan};
use mlxspec_scheduler::config::{ModelShape, SchedulerConfig};
use mlxspec_scheduler::engine::Runner;
use mlxspec_scheduler::ids::{ModelId, RequestId, SlabId};
use mlxspec_scheduler::rows::KvOp;
use mlxspec_scheduler::segment::{SegmentRead, SegmentSave};

use draft_model::SimDraftModel;
use kv::Slab;
use script::{Scripts, next_token};

/// What tests run with that ask for nothing else.
pub(crate) fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_waiting: 64,
        max_running: 8,
        speculation: true,
        max_draft: 8,
        adaptive: true,
        shared_suffix_bytes: 0,
        suffix_dir: None,
        inter_token_ms: 1e3,
        prefix_cache: true,
        kv_dir: None,
        kv_dir_bytes: 0,
        shares: Vec::new(),
        limits: Vec::new(),
    }
}

/// How a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Memory runs out while the KV changes are carried out: rows are freed, none are made.
    KvOps,
    /// The forward breaks off: all it touched is scrambled.
    Forward,
}

/// What has happened, to see that a test met what it is about.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) steps: u64,
    pub(crate) copies: u64,
    pub(crate) prefilled: u64,
    pub(crate) drafts: u64,
    pub(crate) kept: u64,
    pub(crate) shared_rects: u64,
}

/// Runs steps of one model on its own copy of every KV row.
#[derive(Debug)]
pub(crate) struct SimRunner {
    pub(crate) shape: ModelShape,
    pub(crate) scripts: Scripts,
    pub(crate) slabs: BTreeMap<SlabId, Slab>,
    pub(crate) draft_model: SimDraftModel,
    pub(crate) seen: Seen,
    /// By script: drafts verified, and kept.
    pub(crate) drafted: BTreeMap<u32, (u32, u32)>,
    /// Who was first in line and took no part in the last step.
    first_waits: Option<RequestId>,
    /// Slabs that a failed step should have made.
    missing: BTreeSet<SlabId>,
}

impl SimRunner {
    pub(crate) fn new(shape: ModelShape, scripts: Scripts) -> Self {
        let (slabs, drafted) = (BTreeMap::new(), BTreeMap::new());
        Self {
            shape,
            scripts,
            slabs,
            draft_model: SimDraftModel::default(),
            seen: Seen::default(),
            drafted,
            first_waits: None,
            missing: BTreeSet::new(),
        }
    }

    /// Carry out the plan; panics if it is not one that a real runner could trust.
    pub(crate) fn run(&mut self, plan: &StepPlan) -> StepOutcome {
        self.apply(&plan.kv_ops);
        let tokens = self.draft_model.run(plan, &self.scripts);
        let plan = &StepPlan { tokens, ..plan.clone() };
        plan::check(plan, &self.shape, &self.slabs);
        self.seen.steps += 1;
        let prefilled = plan.rows.iter().map(|it| u64::from(it.num_new)).filter(|&it| it > 1);
        self.seen.prefilled += prefilled.sum::<u64>();
        self.seen.shared_rects += plan.rects.iter().filter(|rect| rect.rows > 1).count() as u64;
        self.write(plan);
        let outcome = self.sample(plan);
        self.settle(plan);
        self.draft_model.settle(plan, &outcome.accepted);
        outcome
    }

    /// Carry out part of the plan, as a runner does that fails on the way.
    pub(crate) fn run_and_fail(&mut self, plan: &StepPlan, fault: Fault) {
        match fault {
            Fault::Forward => {
                self.apply(&plan.kv_ops);
                for rect in &plan.rects {
                    self.slab(rect.slab).scramble();
                    self.draft_model.scramble(rect.slab);
                }
            }
            Fault::KvOps => {
                for op in &plan.kv_ops {
                    match *op {
                        KvOp::Create { slab, .. } => assert!(self.missing.insert(slab)),
                        KvOp::Drop { slab } => self.drop_slab(slab),
                        KvOp::Copy { .. } => {}
                    }
                }
            }
        }
    }

    pub(crate) fn slab(&mut self, id: SlabId) -> &mut Slab {
        self.slabs.get_mut(&id).unwrap_or_else(|| panic!("slab {id} does not exist"))
    }

    fn apply(&mut self, ops: &[KvOp]) {
        for op in ops {
            self.draft_model.apply(op);
            match *op {
                KvOp::Create { slab, slots, capacity } => {
                    assert!(slots > 0 && capacity > 0, "slab {slab} is empty");
                    let old = self.slabs.insert(slab, Slab::new(slots, capacity));
                    assert!(old.is_none(), "slab {slab} is created twice");
                }
                KvOp::Drop { slab } => self.drop_slab(slab),
                KvOp::Copy { from, to, num_tokens } => {
                    assert_ne!(from, to, "a row is copied onto itself");
                    let source = self.slab(from.slab).row(from.slot).head(num_tokens);
                    self.slab(to.slab).row(to.slot).paste(&source);
                    self.seen.copies += 1;
                }
            }
        }
    }

    fn drop_slab(&mut self, slab: SlabId) {
        let known = self.slabs.remove(&slab).is_some() || self.missing.remove(&slab);
        assert!(known, "slab {slab} is dropped, and was not there");
    }

    /// All rectangles write before any of them reads, as each layer of a real model does.
    fn write(&mut self, plan: &StepPlan) {
        for rect in &plan.rects {
            let slab = self.slab(rect.slab);
            for (slot, start, tokens) in plan::parts(plan, rect) {
                slab.row(slot).write(start, tokens);
            }
        }
    }

    fn sample(&mut self, plan: &StepPlan) -> StepOutcome {
        let mut outcome = StepOutcome::default();
        for sampler in &plan.samplers {
            let first = sampler.first as usize;
            let entries = first..=first + sampler.num_drafts as usize;
            let at: Vec<usize> =
                plan.sampled[entries.clone()].iter().map(|&i| i as usize).collect();
            let (slot, rect) = plan::locate(plan, at[0]);
            let known = plan.positions[at[0]];
            let scripts = self.scripts.clone();
            let row = self.slab(rect.slab).row(slot);
            let script = scripts.get(row.owner(known + 1));
            assert_eq!(script.sampling.temperature.to_bits(), sampler.temperature.to_bits());
            assert!(sampler.num_drafts <= script.max_draft, "a longer draft than was asked for");
            row.assert_holds(&script.tokens[..=known as usize]);
            check_capacity(rect, row.capacity(), known, scripts.padding_behind);
            let mut kept = 0;
            for (offset, entry) in entries.enumerate() {
                let (index, position) = (at[offset], known + offset as u32);
                let (at_slot, at_rect) = plan::locate(plan, index);
                assert_eq!((at_slot, at_rect.slab), (slot, rect.slab), "a draft in another row");
                assert_eq!(plan.positions[index], position, "a draft at another position");
                assert!(at_rect.view > position, "a token does not see itself");
                let noise = (sampler.temperature > 0.0).then_some(plan.noise[entry]);
                let target = next_token(&row.read(position), noise);
                outcome.tokens.push(target);
                if kept == offset && offset < sampler.num_drafts as usize {
                    kept += usize::from(row.token(position + 1) == Some(target));
                }
            }
            row.keep(known + 1 + kept as u32);
            outcome.accepted.push(kept as u32);
            let drafted = self.drafted.entry(script.name).or_default();
            *drafted = (drafted.0 + sampler.num_drafts, drafted.1 + kept as u32);
            self.seen.drafts += u64::from(sampler.num_drafts);
            self.seen.kept += kept as u64;
        }
        outcome
    }

    /// What was written and not sampled is prompt, and valid from now on.
    fn settle(&mut self, plan: &StepPlan) {
        let scripts = self.scripts.clone();
        for rect in &plan.rects {
            for slot in rect.slot..rect.slot + rect.rows {
                let row = self.slab(rect.slab).row(slot);
                if let Some(written) = row.unsettled() {
                    row.assert_holds(&scripts.get(row.owner(written)).tokens[..written as usize]);
                    row.keep(written);
                }
            }
        }
    }
}

/// A model of this context and pool whose steps all cost the same, so that drafts pay.
pub(crate) fn shape(max_context: u32, total_blocks: u32, padded: bool) -> ModelShape {
    ModelShape {
        max_context,
        total_blocks,
        slab_slots: 4,
        step_tokens: 64,
        prefill_chunk: 32,
        view_step: 64,
        padded,
        plain: false,
        whole: false,
        step_cost: vec![(1, 1.0), (256, 1.0)],
        rect_cost: 0.0,
        fingerprint: "sim".to_owned(),
        kv_key: None,
        takes_drafter: true,
    }
}

/// A row is at most twice as long as what it needs, plus one bucket.
fn check_capacity(rect: &Rect, capacity: u32, last: u32, padding: u32) {
    let need = last + 1 + padding;
    assert!(capacity <= 2 * need + 256, "slab {}: {capacity} positions for {need}", rect.slab);
}

impl Runner for SimRunner {
    fn load(&mut self, _model: ModelId, _num_bytes: u64) -> Option<LoadEnd> {
        Some(LoadEnd::Loaded { shape: self.shape.clone(), num_bytes: 0 })
    }

    fn cancel_load(&mut self, _model: ModelId) {}

    fn evict(&mut self, _model: ModelId) {
        self.slabs.clear();
    }

    fn step(&mut self, plan: &StepPlan) -> Result<StepOutcome, String> {
        Ok(self.run(plan))
    }

    fn save_kv(&mut self, save: &SegmentSave, _file: &Path) -> Result<u64, String> {
        panic!("{save:?}, and no disk");
    }

    fn read_kv(&mut self, read: &SegmentRead, _file: &Path) -> bool {
        panic!("{read:?}, and no disk");
    }
}
