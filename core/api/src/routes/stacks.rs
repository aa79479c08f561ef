//! `/sampan/v1/stacks`: the reconciler.
