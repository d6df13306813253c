package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

func Example() {
	component := func(name string) lifecycle.Component {
		return lifecycle.Func(name, func(ctx context.Context, ready func()) error {
			fmt.Println("start", name)
			ready()
			<-ctx.Done()
			fmt.Println("stop", name, "because it", context.Cause(ctx))
			return nil
		})
	}
	group := lifecycle.NewGroup(slog.New(slog.DiscardHandler))
	datastore := group.Add(component("datastore"))
	group.Add(component("apiserver"), lifecycle.After(datastore), lifecycle.Grace(5*time.Second))

	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error)
	go func() { ended <- group.Run(ctx) }()
	if err := group.Ready(ctx); err != nil {
		fmt.Println(err)
	}
	cancel(errors.New("received SIGTERM"))
	fmt.Println("result:", <-ended)
	// Output:
	// start datastore
	// start apiserver
	// stop apiserver because it received SIGTERM
	// stop datastore because it received SIGTERM
	// result: <nil>
}
