//! Endpoints of one backend as the data path sees them.
