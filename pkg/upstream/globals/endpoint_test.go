package globals

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestDefaultRegistryAsACollector(t *testing.T) {
	inner := prometheus.NewRegistry()
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "containerd_calls_total", Help: "Calls."}, []string{"op", "code"})
	size := prometheus.NewGauge(prometheus.GaugeOpts{Name: "containerd_size", Help: "Size."})
	inner.MustRegister(calls, size, collectors.NewGoCollector())
	calls.WithLabelValues("pull", "ok").Add(3)
	calls.WithLabelValues("run", "ok").Add(2)
	size.Set(7)

	outer := prometheus.NewPedanticRegistry()
	outer.MustRegister(collectors.NewGoCollector(), defaultRegistry{inner})
	const want = `# HELP containerd_calls_total Calls.
# TYPE containerd_calls_total counter
containerd_calls_total{code="ok",op="pull"} 3
containerd_calls_total{code="ok",op="run"} 2
# HELP containerd_size Size.
# TYPE containerd_size gauge
containerd_size 7
`
	if err := testutil.GatherAndCompare(outer, strings.NewReader(want), "containerd_calls_total", "containerd_size"); err != nil {
		t.Error(err)
	}
}
