//! engram-agent
