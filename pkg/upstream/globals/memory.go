package globals

import "runtime/debug"

// ReleaseMemory gives the heap that only the start needed back to the kernel.
func ReleaseMemory() { debug.FreeOSMemory() }
