//! Commands on images and registries.

pub mod auth;
pub mod build;
pub mod build_agent;
mod build_call;
pub mod build_layout;
pub mod build_output;
pub mod build_upload;
pub mod ignore;
pub mod list;
pub mod login;
pub mod manifest;
pub mod pull;
pub mod reference;
pub mod transfer;
mod tree;
