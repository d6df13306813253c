// Command network measures the way between pods on two nodes, on test hosts of this machine, and prints one table:
//
//	go run ./tests/bench/network                      throughput and latency, beside the bare cable
//	go run ./tests/bench/network -loss 20 -for 5m     what works while a fifth of all packets are lost
//
// Run it as root, with dist/knarr built (or KNARR_BIN), on a machine that does nothing else. It is no part of CI.
package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"strings"
	"time"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
)

func main() { os.Exit(cluster.Main("network", run)) }

func run(ctx context.Context) error {
	server := flag.String("serve", "", "be the receiving end at `ADDRESS`")
	client := flag.String("send", "", "be the sending end, towards `ADDRESS`")
	loss := flag.Int("loss", 0, "lose that `PERCENT` of all packets between the nodes, and see what works")
	span := flag.Duration("for", 10*time.Second, "how long each measurement takes")
	backends := flag.String("backends", "vxlan,host-gw", "which backends to measure")
	flag.Parse()
	switch {
	case *server != "":
		return serve(ctx, *server)
	case *client != "":
		return send(ctx, *client, *span)
	case *loss < 0 || *loss > 90:
		return errors.New("-loss: want from 0 to 90")
	}
	return cluster.InLab(ctx, func(l *lab.Lab, binary string) error {
		archives, err := images.Build(ctx, l.Dir())
		if err != nil {
			return err
		}
		b := &bench{lab: l, binary: binary, archives: archives}
		if *loss > 0 {
			return b.lossy(ctx, *loss, *span)
		}
		return b.compare(ctx, strings.Split(*backends, ","), *span)
	})
}
