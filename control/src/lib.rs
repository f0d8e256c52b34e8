//! Kubernetes objects in, an ordered plan of table writes out.
