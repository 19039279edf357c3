//! Folders that Apache Kafka 4.3.1 wrote are read as Kafka reads them, after a clean stop and after
//! kill -9; what its side files say is what we would say.
#![cfg(feature = "zstd")]

mod folder;
mod looked;
mod reads;
mod side_files;
mod take_over;
