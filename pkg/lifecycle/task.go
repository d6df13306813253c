package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// PanicError is what a panic of a component becomes.
type PanicError struct {
	Value any    // what panic was called with
	Stack []byte // of the goroutine that panicked
}

// Error returns the value and the stack: there is no second place to look.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.Value, e.Stack) }

// Unwrap returns the value if panic was called with an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

var errGoexit = errors.New("left its goroutine through runtime.Goexit")

// A task is a function in a goroutine of its own.
type task struct {
	done chan struct{} // closed when the function has ended, in whatever way
	err  error         // to be read only after done is closed
}

// spawn starts fn. A panic and runtime.Goexit end the task with an error.
func spawn(fn func() error) *task {
	t := &task{done: make(chan struct{}), err: errGoexit}
	go func() {
		defer close(t.done)
		defer func() {
			if v := recover(); v != nil {
				t.err = &PanicError{Value: v, Stack: debug.Stack()}
			}
		}()
		t.err = fn()
	}()
	return t
}

// wait blocks until the task has ended, at most for grace after ctx is done,
// and reports whether it has.
func (t *task) wait(ctx context.Context, grace time.Duration) bool {
	select {
	case <-t.done:
		return true
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-t.done:
		return true
	case <-timer.C:
		return false
	}
}
