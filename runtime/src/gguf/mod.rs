//! (module gguf)
