//! (module chat)
