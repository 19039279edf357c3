//! The whole spine on one simulated disk, from one seed: real log files in, aggregates out, and death
//! at any I/O point in between.
//!
//! Reading order: [`plan`] says what a seed decides; `story` what happens to the files; `actors` who
//! does it; `life` how the program is run beside them; [`run`] how all of it dies and comes back;
//! `oracle` what must be there in the end; `campaign` which cases are run; `mutants` whether they
//! would notice.
//!
//! Beside it, without a pipeline: [`fuzz`] gives bytes from outside to everything that reads them;
//! [`flips`] turns single bits of stored files; `image` is the folder that both begin with.
//!
//! The pipeline is the very file of `log_etl`, the reference that of the root's tests.

mod actors;
pub mod campaign;
mod chronicle;
pub mod flips;
pub mod fuzz;
mod image;
mod life;
pub mod mutants;
mod oracle;
pub mod plan;
pub mod run;
mod story;

#[path = "../../examples/log_etl/pipeline.rs"]
mod pipeline;
#[path = "../../tests/reference/mod.rs"]
mod reference;
