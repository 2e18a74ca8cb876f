//! The residency machine, explored: every order in which three clients, a loader and time can act
//! on three models of which two fit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};

use mlxspec_scheduler::config::{KeepAlive, MemoryConfig, ModelPolicy, WhenFull};
use mlxspec_scheduler::ids::ModelId;
use mlxspec_scheduler::residency::{Admission, ModelState, Order, Phase, Residency};

/// Ages from here on look alike but for their order: no threshold of the machine lies above.
const HORIZON: u64 = 1;
/// The moment at which every state is looked at.
const NOW: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Client {
    Away,
    Waits(u32),
    Runs(u32),
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Arrive(usize, u32),
    Leave(usize),
    Loaded(u32),
    Resized(u32),
    Failed(u32),
    Cancelled(u32),
    Evicted(u32),
    Unload(u32),
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    residency: Residency,
    clients: Vec<Client>,
    /// Loads that the runner works at, and whether it was told to break them off.
    loading: BTreeSet<(u32, bool)>,
    evicting: BTreeSet<u32>,
    /// Loads may find once that they need more.
    resizes: u32,
    /// Whether the first model is pinned.
    pins: bool,
    /// Who was told to leave by the last act.
    evictions: Vec<u32>,
}

fn memory(when_full: WhenFull) -> MemoryConfig {
    MemoryConfig { budget: 2, when_full, wait_ns: 9, patience_ns: 1, min_resident_ns: 1 }
}

fn policy(pinned: bool, keep_alive: KeepAlive) -> ModelPolicy {
    ModelPolicy { need: 1, pinned, keep_alive, ..ModelPolicy::default() }
}

impl World {
    fn new(when_full: WhenFull, policies: Vec<ModelPolicy>, num_clients: usize) -> Self {
        let clients = vec![Client::Away; num_clients];
        let pins = policies[0].pinned;
        let residency = Residency::new(memory(when_full), policies);
        let (loading, evicting) = (BTreeSet::new(), BTreeSet::new());
        let evictions = Vec::new();
        Self { residency, clients, loading, evicting, resizes: 1, pins, evictions }
    }

    fn phase(&self, model: u32) -> Phase {
        self.residency.models[model as usize].phase
    }

    /// The same for worlds that differ only in which client is which.
    fn key(&self, hasher: &RandomState) -> u64 {
        let mut world = self.clone();
        world.clients.sort_unstable();
        world.evictions.clear();
        hasher.hash_one(&world)
    }

    fn count(&self, client: Client) -> u32 {
        self.clients.iter().filter(|&&it| it == client).count() as u32
    }

    fn acts(&self) -> Vec<Act> {
        let mut acts = vec![Act::Tick];
        for (at, client) in self.clients.iter().enumerate() {
            match client {
                Client::Away => acts.extend((0..self.num_targets()).map(|it| Act::Arrive(at, it))),
                Client::Waits(_) | Client::Runs(_) => acts.push(Act::Leave(at)),
            }
        }
        for &(model, cancelled) in &self.loading {
            acts.extend([Act::Loaded(model), Act::Failed(model)]);
            acts.extend((self.resizes > 0).then_some(Act::Resized(model)));
            acts.extend(cancelled.then_some(Act::Cancelled(model)));
        }
        acts.extend(self.evicting.iter().map(|&it| Act::Evicted(it)));
        let there = |&it: &u32| matches!(self.phase(it), Phase::Resident | Phase::Loading);
        let unloads = (0..self.num_targets()).filter(there);
        acts.extend(unloads.map(Act::Unload));
        acts
    }

    fn num_targets(&self) -> u32 {
        self.residency.targets().len() as u32
    }

    fn num_models(&self) -> u32 {
        self.residency.models.len() as u32
    }

    fn apply(&mut self, act: Act) {
        self.evictions.clear();
        let residency = &mut self.residency;
        match act {
            Act::Tick => self.tick(),
            Act::Arrive(client, model) => {
                self.clients[client] = match residency.arrive(ModelId(model), None, NOW) {
                    Ok(Admission::Run) => Client::Runs(model),
                    Ok(Admission::Wait) => Client::Waits(model),
                    Err(_) => Client::Away,
                };
            }
            Act::Leave(client) => self.leave(client),
            Act::Loaded(model) => {
                let bytes = residency.models[model as usize].held;
                residency.loaded(ModelId(model), bytes, NOW);
            }
            Act::Resized(model) => {
                self.resizes -= 1;
                residency.resized(ModelId(model), 2, NOW);
            }
            Act::Failed(model) => residency.load_failed(ModelId(model), NOW),
            Act::Cancelled(model) => residency.load_cancelled(ModelId(model)),
            Act::Evicted(model) => residency.evicted(ModelId(model), NOW),
            Act::Unload(model) => residency.unload(ModelId(model)),
        }
        if let Act::Loaded(model)
        | Act::Failed(model)
        | Act::Cancelled(model)
        | Act::Resized(model) = act
        {
            self.loading.retain(|it| it.0 != model);
        }
        if let Act::Evicted(model) = act {
            self.evicting.remove(&model);
        }
        self.obey();
        self.fold();
        self.check();
    }

    fn leave(&mut self, client: usize) {
        match std::mem::replace(&mut self.clients[client], Client::Away) {
            Client::Away => {}
            Client::Waits(model) => self.residency.leave(ModelId(model), Admission::Wait, NOW),
            Client::Runs(model) => self.residency.leave(ModelId(model), Admission::Run, NOW),
        }
    }

    fn tick(&mut self) {
        for model in &mut self.residency.models {
            for time in [&mut model.since_ns, &mut model.used_ns, &mut model.retry_ns] {
                *time = time.saturating_sub(1);
            }
        }
    }

    /// Carry out all orders: each must make sense to a runner.
    fn obey(&mut self) {
        for _ in 0..20 {
            let Some(order) = self.residency.next(NOW) else { return };
            match order {
                Order::Load(ModelId(model)) => {
                    let twice = self.loading.iter().any(|it| it.0 == model);
                    assert!(!twice && !self.evicting.contains(&model), "a second load of {model}");
                    self.loading.insert((model, false));
                }
                Order::CancelLoad(ModelId(model)) => {
                    assert!(self.loading.remove(&(model, false)), "no load of {model} to cancel");
                    assert_eq!(self.count(Client::Waits(model)), 0, "somebody waits for {model}");
                    self.loading.insert((model, true));
                }
                Order::Evict(ModelId(model)) => {
                    let state = &self.residency.models[model as usize];
                    assert_eq!(state.running, 0, "model {model} is evicted while it runs");
                    self.evictions.push(model);
                    assert!(self.evicting.insert(model), "a second eviction of {model}");
                }
            }
        }
        panic!("the machine never rests");
    }

    /// Give states that the machine cannot tell apart the same form: of old times only the order
    /// counts, and only among those that are compared; some times count for nothing.
    fn fold(&mut self) {
        let models = &mut self.residency.models;
        for model in models.iter_mut() {
            let here = matches!(model.phase, Phase::Resident | Phase::Draining);
            let keep = |time: u64, counts: bool| if counts { time } else { 0 };
            model.since_ns = keep(model.since_ns, here || model.phase == Phase::Reserving);
            model.used_ns = keep(model.used_ns, here && model.running == 0);
            // Back-off is longer than the horizon; here it ends after one tick.
            let backs_off = model.phase == Phase::Failed && model.retry_ns > NOW;
            model.retry_ns = if backs_off { NOW + 1 } else { 0 };
            model.failures = 0;
        }
        let waits = |it: &ModelState| it.phase == Phase::Reserving;
        rank(models.iter_mut().filter(|it| waits(it)).map(|it| &mut it.since_ns).collect());
        rank(models.iter_mut().filter(|it| !waits(it)).map(|it| &mut it.since_ns).collect());
        rank(models.iter_mut().map(|it| &mut it.used_ns).collect());
    }

    fn check(&mut self) {
        self.residency.check_integrity().unwrap();
        for model in 0..self.num_models() {
            let state = &self.residency.models[model as usize];
            let (phase, counts) = (state.phase, (state.waiting, state.running));
            let admitted = state.waiting == 0 && phase != Phase::Failed;
            for client in self.clients.iter_mut().filter(|it| **it == Client::Waits(model)) {
                // A failed load ends all who waited; the scheduler tells them.
                *client = if admitted { Client::Runs(model) } else { *client };
                *client = if phase == Phase::Failed { Client::Away } else { *client };
            }
            let here = (self.count(Client::Waits(model)), self.count(Client::Runs(model)));
            assert_eq!(counts, here, "waiting and running in model {model}");
            let loads = self.loading.iter().any(|it| it.0 == model);
            assert_eq!(phase == Phase::Loading, loads, "of model {model}");
            assert_eq!(phase == Phase::Evicting, self.evicting.contains(&model));
        }
    }

    /// The runner does what it was told; nothing fails.
    fn serve(&mut self) {
        while let Some(&(model, _)) = self.loading.first() {
            self.apply(Act::Loaded(model));
        }
        while let Some(&model) = self.evicting.first() {
            self.apply(Act::Evicted(model));
        }
    }

    /// Whoever waits is served in the end, though all the others leave and come back at once.
    fn check_that_nobody_starves(&self) {
        for patient in 0..self.clients.len() {
            let mut world = self.clone();
            let mut rounds = 0;
            while world.waits_in_hope(patient) {
                rounds += 1;
                assert!(rounds < 40, "client {patient} starves in {self:#?}");
                world.serve();
                for other in (0..world.clients.len()).filter(|&it| it != patient) {
                    if let Client::Runs(model) = world.clients[other] {
                        world.apply(Act::Leave(other));
                        world.apply(Act::Arrive(other, model));
                    }
                }
                world.serve();
                world.apply(Act::Tick);
            }
        }
    }

    /// False also for a model that cannot fit beside the pinned one: it times out.
    fn waits_in_hope(&self, client: usize) -> bool {
        let Client::Waits(model) = self.clients[client] else { return false };
        let models = &self.residency.models;
        let pinned = if self.pins && model != 0 { models[0].need } else { 0 };
        models[model as usize].need + pinned <= 2
    }

    /// A model in memory, room, and nobody in line: what is worth drafting for is drafted for.
    fn check_that_it_comes_when_there_is_room(&self) {
        let mut world = self.clone();
        world.serve();
        world.apply(Act::Tick);
        world.serve();
        let targets = world.residency.targets();
        let quiet = targets.iter().all(|it| it.phase != Phase::Reserving);
        let room = world.residency.held() + world.residency.models[2].need <= 2;
        let wanted = quiet && room && world.residency.num_served(ModelId(2)) > 0;
        assert!(!wanted || world.phase(2) == Phase::Resident, "{world:#?}");
    }

    /// When everybody has gone and every model was told to go, all memory is free.
    fn check_that_memory_comes_back(&self) {
        let mut world = self.clone();
        for client in 0..world.clients.len() {
            world.apply(Act::Leave(client));
        }
        world.serve();
        for model in 0..world.num_targets() {
            world.apply(Act::Unload(model));
        }
        world.serve();
        let pinned = world.residency.models.iter().filter(|it| it.phase == Phase::Resident);
        assert_eq!(world.residency.held(), pinned.map(|it| it.held).sum::<u64>());
    }
}

/// Replace old times by their order, youngest first.
fn rank(times: Vec<&mut u64>) {
    let old = |time: u64| time > 0 && time + HORIZON <= NOW;
    let olds: BTreeSet<u64> = times.iter().map(|it| **it).filter(|&it| old(it)).collect();
    for time in times {
        if old(*time) {
            *time = NOW - HORIZON - olds.range(*time + 1..).count() as u64;
        }
    }
}

/// Visit every state that can be reached and return how many there are; each step on the way is
/// checked. States are remembered by 64 bits of their hash.
fn explore(start: World, visit: impl Fn(&World)) -> usize {
    let hasher = RandomState::new();
    let mut seen = HashSet::from([start.key(&hasher)]);
    let mut open = vec![start];
    while let Some(world) = open.pop() {
        visit(&world);
        for act in world.acts() {
            let mut next = world.clone();
            next.apply(act);
            if seen.insert(next.key(&hasher)) {
                open.push(next);
            }
        }
        assert!(seen.len() < 4_000_000, "no end in sight");
    }
    seen.len()
}

fn explore_and_check(start: World) -> usize {
    explore(start, |world| {
        world.check_that_nobody_starves();
        world.check_that_memory_comes_back();
    })
}

#[test]
fn three_models_three_clients_two_places() {
    let policies = vec![policy(false, KeepAlive::Forever); 3];
    let states = explore_and_check(World::new(WhenFull::Evict, policies, 3));
    assert!(states > 20_000, "{states} states: something is never reached");
}

#[test]
fn one_of_three_models_is_pinned_and_one_leaves_when_idle() {
    let policies = [(true, KeepAlive::For(0)), (false, KeepAlive::For(1))];
    let mut policies: Vec<_> = policies.into_iter().map(|(pin, keep)| policy(pin, keep)).collect();
    policies.push(policy(false, KeepAlive::Forever));
    let states = explore_and_check(World::new(WhenFull::Evict, policies, 3));
    assert!(states > 2_000, "{states} states: something is never reached");
}

#[test]
fn a_policy_that_evicts_nobody_keeps_its_books() {
    for when_full in [WhenFull::Wait, WhenFull::Fail] {
        let policies = vec![policy(false, KeepAlive::Forever); 3];
        let states = explore(World::new(when_full, policies, 3), |world| {
            world.check_that_memory_comes_back();
            let mut phases = world.residency.models.iter().map(|it| it.phase);
            let waits = phases.any(|it| it == Phase::Reserving);
            assert!(!waits || when_full == WhenFull::Wait || world.resizes == 0);
        });
        assert!(states > 1_000, "{states} states: something is never reached");
    }
}

/// Two models share a drafter; two of the three fit.
fn sharing_a_drafter() -> World {
    let policies =
        vec![ModelPolicy { drafter: Some(ModelId(2)), ..policy(false, KeepAlive::Forever) }; 2];
    let mut world = World::new(WhenFull::Evict, policies, 3);
    world.residency = world.residency.with_drafters([1]);
    world
}

#[test]
fn a_drafter_comes_last_goes_first_and_leaves_with_those_it_drafts_for() {
    let states = explore(sharing_a_drafter(), |world| {
        world.check_that_nobody_starves();
        world.check_that_memory_comes_back();
        let drafter = &world.residency.models[2];
        let targets = world.residency.targets();
        let waits = targets.iter().any(|it| it.phase == Phase::Reserving);
        let came = drafter.phase == Phase::Loading && !world.loading.contains(&(2, true));
        assert!(
            !(waits && came) || targets[0].need + targets[1].need > 2,
            "it comes before a model"
        );
        let needless =
            drafter.phase == Phase::Resident && world.residency.num_served(ModelId(2)) == 0;
        assert!(!needless, "it stays for nobody");
        world.check_that_it_comes_when_there_is_room();
    });
    assert!(states > 3_000, "{states} states: something is never reached");
}

#[test]
fn a_model_that_needs_room_gets_the_drafters_whatever_happens_when_memory_is_full() {
    for when_full in [WhenFull::Evict, WhenFull::Wait, WhenFull::Fail] {
        let mut world = sharing_a_drafter();
        world.residency = Residency::new(
            memory(when_full),
            [0, 1].map(|_| ModelPolicy {
                drafter: Some(ModelId(2)),
                ..policy(false, KeepAlive::Forever)
            }),
        )
        .with_drafters([1]);
        world.apply(Act::Arrive(0, 0));
        world.serve();
        assert_eq!(world.phase(2), Phase::Resident);
        world.apply(Act::Arrive(1, 1));
        assert_eq!(world.evictions, [2]);
        (0..2).for_each(|_| world.serve());
        assert_eq!(
            [0, 1, 2].map(|it| world.phase(it)),
            [Phase::Resident, Phase::Resident, Phase::Absent]
        );
        assert_eq!(world.residency.num_served(ModelId(2)), 2, "one drafter, two models");
        world.apply(Act::Leave(1));
        world.apply(Act::Unload(1));
        (0..2).for_each(|_| world.serve());
        assert_eq!(world.phase(2), Phase::Resident, "there is room again");
    }
}

/// A world of its own time: every request is admitted, ends, and finds its model in memory.
#[test]
fn ten_thousand_loads_and_evictions_stay_within_the_budget() {
    let config = MemoryConfig { budget: 220, ..memory(WhenFull::Evict) };
    let policies = [100, 110, 90, 105].map(|need| ModelPolicy { need, ..ModelPolicy::default() });
    let mut residency = Residency::new(config, policies);
    let (mut evictions, mut running, mut now, mut dice) = (0, Vec::new(), 0, 1_u64);
    while evictions < 10_000 {
        now += 1;
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let model = ModelId((dice >> 33) as u32 % 4);
        if running.len() < 8 {
            residency.arrive(model, None, now).unwrap();
            running.push(model);
        } else {
            let id = running.remove((dice >> 40) as usize % 8);
            let runs = residency.get(id).unwrap().running > 0;
            let from = if runs { Admission::Run } else { Admission::Wait };
            residency.leave(id, from, now);
        }
        while let Some(order) = residency.next(now) {
            match order {
                Order::Load(id) => residency.loaded(id, u64::MAX, now),
                Order::CancelLoad(id) => residency.load_cancelled(id),
                Order::Evict(id) => residency.evicted(id, now),
            }
            evictions += u64::from(matches!(order, Order::Evict(_)));
            residency.check_integrity().unwrap();
        }
    }
    for id in running {
        let runs = residency.get(id).unwrap().running > 0;
        residency.leave(id, if runs { Admission::Run } else { Admission::Wait }, now);
    }
    (0..4).for_each(|it| residency.unload(ModelId(it)));
    while let Some(Order::Evict(id)) = residency.next(now) {
        residency.evicted(id, now);
    }
    assert_eq!(residency.held(), 0);
}

/// A machine whose only model is in memory, and idle since 5.
fn idle_since_5(pinned: bool, keep_alive: KeepAlive) -> Residency {
    let mut residency = Residency::new(memory(WhenFull::Evict), [policy(pinned, keep_alive)]);
    let id = ModelId(0);
    residency.arrive(id, None, 0).unwrap();
    assert_eq!(residency.next(0), Some(Order::Load(id)));
    residency.loaded(id, 1, 1);
    assert_eq!(residency.get(id).unwrap().expires_ns(), None, "it runs");
    residency.leave(id, Admission::Run, 5);
    residency
}

#[test]
fn an_idle_model_leaves_when_its_time_is_over_and_not_before() {
    let (id, mut residency) = (ModelId(0), idle_since_5(false, KeepAlive::For(10)));
    assert_eq!(residency.get(id).unwrap().expires_ns(), Some(15));
    assert_eq!(residency.next(14), None);
    assert_eq!(residency.next(15), Some(Order::Evict(id)));
    assert_eq!(residency.get(id).unwrap().expires_ns(), None, "it leaves");
}

#[test]
fn a_pinned_model_and_one_that_is_kept_for_ever_stay() {
    for (pinned, keep_alive) in [(true, KeepAlive::For(10)), (false, KeepAlive::Forever)] {
        let mut residency = idle_since_5(pinned, keep_alive);
        assert_eq!(residency.get(ModelId(0)).unwrap().expires_ns(), None);
        assert_eq!(residency.next(u64::MAX), None);
    }
}
