//! Which models are in memory, and what has to happen before one can run.
//!
//! ```text
//! absent --wanted--> loading --loaded--> resident
//!                       |
//!                       +--failed--> failed
//! ```

/// Where a model stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Residency {
    /// Not in memory and not asked for.
    #[default]
    Absent,
    /// Asked for; the engine loop loads it before its next step.
    Wanted,
    /// The runner is loading it.
    Loading,
    /// In memory; requests run.
    Resident,
    /// Could not be loaded, and why.
    Failed(String),
}

impl Residency {
    /// Ask for the model; no effect once it is on its way, in memory, or failed.
    pub fn want(&mut self) {
        if *self == Self::Absent {
            *self = Self::Wanted;
        }
    }

    /// Start the load if one is due; true exactly once per load.
    pub fn start_load(&mut self) -> bool {
        let due = *self == Self::Wanted;
        if due {
            *self = Self::Loading;
        }
        due
    }
}
