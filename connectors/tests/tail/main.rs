//! The tailing source on the simulated disk: what it promises, one room per kind of promise.

mod bad_input;
mod copies;
mod following;
mod lines;
mod model;
mod power;
mod real;
mod rotation;
mod world;
