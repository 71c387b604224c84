//! (module sampling)
