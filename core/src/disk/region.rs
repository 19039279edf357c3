//! F2 · A part of a file, for whoever moves its bytes on without a copy in between.
//!
//! ```text
//!   file:    | ... | batch | batch | batch | ...
//!                  ^ position              ^ position + len
//! ```
//!
//! Always true here: the bytes of a region never change, and are there for as long as it is held, also
//! when the file was closed by its log, or removed, meanwhile; nobody reads beside it through it.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;

use super::{DiskFile, read_exact_at};

/// Bytes that lie somewhere, not read yet. Cheap to clone.
#[derive(Clone)]
pub struct Region {
    source: Source,
    position: u64,
    len: u64,
}

#[derive(Clone)]
enum Source {
    File(Arc<dyn DiskFile>),
    Memory(Bytes),
}

impl Region {
    /// `len` bytes at `position` of `file`, which are there and stay as they are.
    pub(crate) fn of_file(file: Arc<dyn DiskFile>, position: u64, len: u64) -> Self {
        Self { source: Source::File(file), position, len }
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The open file, and where in it the region begins: for `sendfile` and its kin. `None` where there
    /// is no file of the system's (a simulated disk, a log elsewhere): read it then.
    ///
    /// Nobody may write through the descriptor, or use its cursor.
    pub fn descriptor(&self) -> Option<(BorrowedFd<'_>, u64)> {
        match &self.source {
            Source::File(file) => file.descriptor().map(|fd| (fd, self.position)),
            Source::Memory(_) => None,
        }
    }

    /// Reads `buf.len()` bytes that begin at byte `at` of the region.
    ///
    /// # Errors
    /// `UnexpectedEof` when the region has fewer; what the system says to the read.
    pub fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        if at.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.source {
            Source::File(file) => read_exact_at(&**file, buf, self.position + at),
            Source::Memory(bytes) => {
                let at = at as usize;
                buf.copy_from_slice(&bytes[at..at + buf.len()]);
                Ok(())
            }
        }
    }
}

/// Bytes in memory: no file.
impl From<Bytes> for Region {
    fn from(bytes: Bytes) -> Self {
        let len = bytes.len() as u64;
        Self { source: Source::Memory(bytes), position: 0, len }
    }
}

/// No bytes.
impl Default for Region {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::File(_) => "file",
            Source::Memory(_) => "memory",
        };
        f.debug_struct("Region")
            .field("source", &source)
            .field("position", &self.position)
            .field("len", &self.len)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_in_memory_is_read_like_any() {
        let region = Region::from(Bytes::from_static(b"0123456789"));
        let mut bytes = [0; 4];
        region.read_exact_at(&mut bytes, 6).expect("its last bytes");
        assert_eq!(&bytes, b"6789");
        for at in [7, 10, 11, u64::MAX] {
            let e = region.read_exact_at(&mut bytes, at).expect_err("beyond its end");
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof, "{at}");
        }
        assert!(region.descriptor().is_none());
        assert!(Region::default().is_empty());
    }
}
