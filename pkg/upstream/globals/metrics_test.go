package globals

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestTolerantRegistryBearsTwoOfAKind(t *testing.T) {
	r := tolerant{prometheus.NewRegistry()}
	counter := func(help string) prometheus.Collector {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "calls", Help: help})
	}
	r.MustRegister(counter("a"))
	r.MustRegister(counter("a"))
	if err := r.Register(counter("a")); err == nil {
		t.Error("Register does not tell of the first any more")
	}
	defer func() {
		if recover() == nil {
			t.Error("a collector that contradicts another was taken")
		}
	}()
	r.MustRegister(counter("b"))
}
