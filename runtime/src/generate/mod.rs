//! (module generate)
