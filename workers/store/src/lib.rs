//! Object stores and the spool of open uploads
