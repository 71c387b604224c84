//! (module threads)
