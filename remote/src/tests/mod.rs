//! Every branch of the module without a server: a scripted libpq on a virtual clock, and the real
//! libpq against a few bytes from a listener.

mod cancel;
mod connect;
mod copy;
mod environment;
mod pure;
mod run;
mod scale;
mod watch;
mod wire;
