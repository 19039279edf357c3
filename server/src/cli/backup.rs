//! `thalweg backup`: a copy of the data folder, also while it is used.

use std::path::Path;

use thalweg_core::backup;
use thalweg_core::disk::real::RealDisk;

use super::args::Backup;
use super::failure::Outcome;
use super::output::Out;
use super::progress::Progress;

/// Runs the command.
pub(crate) fn run(data: &Path, options: &Backup) -> Outcome {
    let mut progress = Progress::new(false);
    let mut before = 0;
    let done = backup::backup(&RealDisk, data, &options.dir, &mut |so_far| {
        let bytes = so_far.copied_bytes + so_far.linked_bytes;
        progress.add(0, bytes - before);
        before = bytes;
    })?;
    drop(progress);
    let mut out = Out::new();
    if options.json {
        out.object(&[
            ("dir", options.dir.to_string_lossy().into_owned().into()),
            ("partitions", done.partitions.into()),
            ("copied_bytes", done.copied_bytes.into()),
            ("linked_bytes", done.linked_bytes.into()),
        ]);
    } else {
        let text = format!(
            "{}: {} partitions, {} bytes copied, {} bytes linked\n",
            options.dir.display(),
            done.partitions,
            done.copied_bytes,
            done.linked_bytes
        );
        out.write(text.as_bytes());
    }
    out.flush()
}
