package lifecycle

import (
	"context"
	"sync"
)

// Crew is the goroutines of one component, kept together: the first that returns an error or panics ends the context of
// all, and Wait returns its error. A panic in a goroutine that nobody recovers ends the process, and with it
// everything else; in a crew it ends one component.
type Crew struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error // written in once
}

// NewCrew returns an empty crew and the context that its goroutines are to live in.
func NewCrew(ctx context.Context) (*Crew, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Crew{ctx: ctx, cancel: cancel}, ctx
}

// Go starts fn. It must not be called after Wait has returned.
func (c *Crew) Go(fn func() error) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		t := spawn(fn)
		<-t.done
		if t.err != nil {
			c.once.Do(func() { c.err = t.err })
			c.cancel(t.err)
		}
	}()
}

// Wait blocks until all goroutines have ended and returns the first error. The context of the crew is then at its end.
func (c *Crew) Wait() error {
	c.wg.Wait()
	c.cancel(nil)
	return c.err
}
