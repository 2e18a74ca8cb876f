//! Shares of the device converge to the weights, and nobody starves, whatever steps take.

#![allow(clippy::unwrap_used, reason = "tests may")]

use mlxspec_scheduler::fair_share::FairShare;
use proptest::prelude::*;

/// A device and models that always, or at times, have something to do.
struct Device {
    share: FairShare,
    weights: Vec<f32>,
    used_ms: Vec<f64>,
    longest_ms: Vec<f64>,
}

impl Device {
    fn new(weights: &[f32]) -> Self {
        let zeros = vec![0.0; weights.len()];
        Self {
            share: FairShare::new(weights.iter().copied()),
            weights: weights.to_vec(),
            used_ms: zeros.clone(),
            longest_ms: zeros,
        }
    }

    /// One step of whoever is next of those with work; nobody's if there are none.
    fn step(
        &mut self,
        has_work: impl Fn(usize) -> bool,
        ms: impl Fn(usize) -> f32,
    ) -> Option<usize> {
        let model = *self.share.order(has_work).first()?;
        self.share.begin(model);
        self.share.charge(model, ms(model));
        self.used_ms[model] += f64::from(ms(model));
        self.longest_ms[model] = self.longest_ms[model].max(f64::from(ms(model)));
        Some(model)
    }

    fn by_weight(&self, model: usize, ms: f64) -> f64 {
        ms / f64::from(self.weights[model])
    }

    /// How far two models may be apart that were both busy: a longest step of each, by weight.
    fn bound(&self, a: usize, b: usize) -> f64 {
        self.by_weight(a, self.longest_ms[a]) + self.by_weight(b, self.longest_ms[b]) + 1e-6
    }
}

fn weights() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(0.1f32..8.0, 2..6)
}

proptest! {
    #[test]
    fn busy_models_get_time_by_their_weights_within_a_step_of_each(
        weights in weights(),
        steps in prop::collection::vec(prop::collection::vec(0.1f32..50.0, 6), 1..400),
    ) {
        let mut device = Device::new(&weights);
        for times in &steps {
            device.step(|_| true, |model| times[model]);
            for a in 0..weights.len() {
                for b in 0..a {
                    let by_weight = |it: usize| device.by_weight(it, device.used_ms[it]);
                    let apart = (by_weight(a) - by_weight(b)).abs();
                    prop_assert!(apart <= device.bound(a, b), "{a} and {b} are {apart} apart");
                }
            }
        }
    }

    #[test]
    fn whoever_comes_and_goes_the_time_of_two_busy_ones_is_shared(
        weights in weights(),
        steps in prop::collection::vec((any::<u8>(), 0.1f32..50.0), 50..400),
    ) {
        let mut device = Device::new(&weights);
        // The first two always have work, from some time on; what came before gives no credit.
        for (at, &(who, ms)) in steps.iter().enumerate() {
            let busy = |model: usize| if model < 2 { at >= 25 } else { who & 1 << model != 0 };
            device.step(busy, |_| ms);
        }
        let by_weight = |it: usize| device.by_weight(it, device.used_ms[it]);
        let apart = (by_weight(0) - by_weight(1)).abs();
        prop_assert!(apart <= device.bound(0, 1), "{apart} apart");
    }

    #[test]
    fn who_was_idle_has_no_credit(
        idle_steps in 1usize..500,
        ms in 0.1f32..50.0,
        weight in 0.1f32..8.0,
    ) {
        let mut device = Device::new(&[1.0, weight]);
        for _ in 0..idle_steps {
            device.step(|model| model == 0, |_| ms);
        }
        // From now on both work: the one that ran alone must not be made to wait for the other to
        // catch up.
        let before = device.used_ms.clone();
        for _ in 0..64 {
            device.step(|_| true, |_| ms);
            let gained = |it: usize| device.by_weight(it, device.used_ms[it] - before[it]);
            let apart = (gained(0) - gained(1)).abs();
            prop_assert!(apart <= device.bound(0, 1), "{apart} apart");
        }
    }

    #[test]
    fn nobody_starves(weights in weights(), steps in 50usize..400, ms in 1.0f32..20.0) {
        let mut device = Device::new(&weights);
        let mut waited_ms = vec![0.0f64; weights.len()];
        let total: f64 = weights.iter().map(|&it| f64::from(it)).sum();
        for _ in 0..steps {
            let model = device.step(|_| true, |_| ms).unwrap();
            for waited in &mut waited_ms {
                *waited += f64::from(ms);
            }
            waited_ms[model] = 0.0;
            for (at, &waited) in waited_ms.iter().enumerate() {
                // Its own step's worth of everybody's time, and one step of each other.
                let worth = f64::from(ms) / f64::from(weights[at]) * total;
                let most = worth + f64::from(ms) * weights.len() as f64 + 1e-6;
                prop_assert!(waited <= most, "{at} has waited {waited} ms, {most} at most");
            }
        }
    }
}

#[test]
fn a_model_that_had_nothing_to_do_when_asked_gains_nothing() {
    let mut share = FairShare::new([1.0, 1.0]);
    for _ in 0..10 {
        // The first has requests but cannot run any.
        let order = share.order(|_| true);
        for model in order {
            if model == 0 {
                share.pass(0);
            } else {
                share.begin(1);
                share.charge(1, 5.0);
            }
        }
    }
    let mut steps = [0, 0];
    for _ in 0..10 {
        let model = share.order(|_| true)[0];
        share.begin(model);
        share.charge(model, 5.0);
        steps[model] += 1;
    }
    assert!((4..=6).contains(&steps[0]), "{steps:?}");
}

#[test]
fn three_to_one_is_three_steps_to_one() {
    let mut device = Device::new(&[3.0, 1.0]);
    for _ in 0..400 {
        device.step(|_| true, |_| 2.0);
    }
    assert_eq!(device.used_ms, [600.0, 200.0]);
}
