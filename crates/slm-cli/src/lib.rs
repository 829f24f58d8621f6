//! The slm command line
