//! Commands on images and registries.

pub mod auth;
pub mod build;
pub mod ignore;
pub mod list;
pub mod login;
pub mod pull;
pub mod reference;
pub mod transfer;
