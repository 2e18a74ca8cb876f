//! Newtype ids: a block can never be mistaken for a slab.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// One submitted request; never reused within a process.
    RequestId(u64)
);
id!(
    /// One served model, in the order of the configuration.
    ModelId(u32)
);
id!(
    /// One fixed run of [`crate::config::BLOCK_TOKENS`] KV positions.
    BlockId(u32)
);
id!(
    /// One row's published tokens; never reused within a model's life.
    PrefixId(u64)
);
id!(
    /// One allocation of equally long KV rows.
    SlabId(u32)
);

/// Where the KV of one request lies: a slot of a slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The slab that holds the row.
    pub slab: SlabId,
    /// The row's index in the slab.
    pub slot: u32,
}
