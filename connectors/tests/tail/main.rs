//! The tailing source on the simulated disk: what it promises, one room per kind of promise.

mod bad_input;
mod copies;
mod files;
mod following;
mod lines;
mod model;
mod power;
mod racing;
mod real;
mod rotation;
mod rotators;
mod world;
