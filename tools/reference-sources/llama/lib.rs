//! Empty: this package only names a crate, so that cargo fetches and pins its source.
