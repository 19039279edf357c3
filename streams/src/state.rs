//! State under the tasks: rows in a backend that may be lost, and the records in the log that bring
//! them back.

pub mod backend;
pub mod checkpoint;
pub mod digest;
pub mod forgetful;
pub mod memory;
pub mod meta;
pub mod restore;
pub mod sled;
