//! What the node's network looks like.
