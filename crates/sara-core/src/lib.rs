//! Adapter layers of the LoRA family, generic over burn's backends.
