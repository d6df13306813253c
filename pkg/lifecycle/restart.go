package lifecycle

// Restart is the error of a component that can go on only in a new process, since something that upstream's components
// take once, at their start, has changed. The group stops as it does for every failure; whoever runs the process then
// starts it again.
type Restart struct {
	// Reason is what has changed, for a person.
	Reason string
}

func (r *Restart) Error() string { return "starting again: " + r.Reason }
