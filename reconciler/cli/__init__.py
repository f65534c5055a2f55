"""The command line: asks the engine and shows what it said. Commands are imported when they run."""
