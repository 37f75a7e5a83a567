//! Singular values, singular value decomposition and the SARA rank rule on any burn backend.
