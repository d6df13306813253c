package shutdown

import (
	"context"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestCalledOff(t *testing.T) {
	prepare := func(down any) *dbus.Signal {
		return &dbus.Signal{Name: loginInterface + "." + loginSignal, Body: []any{down}}
	}
	other := &dbus.Signal{Name: "org.freedesktop.DBus.NameAcquired", Body: []any{":1.7"}}
	for name, c := range map[string]struct {
		signals []*dbus.Signal
		want    bool
	}{
		"nothing":                {nil, false},
		"announced":              {[]*dbus.Signal{other, prepare(true)}, false},
		"called off":             {[]*dbus.Signal{prepare(true), other, prepare(false)}, true},
		"announced a while ago":  {[]*dbus.Signal{prepare(false)}, false},
		"announced twice":        {[]*dbus.Signal{prepare(true), prepare(true), prepare(false)}, true},
		"of an unexpected shape": {[]*dbus.Signal{prepare("yes"), {Name: loginInterface + "." + loginSignal}, prepare(false)}, false},
	} {
		signals := make(chan *dbus.Signal, len(c.signals))
		for _, s := range c.signals {
			signals <- s
		}
		close(signals) // as when the bus goes
		if got := calledOff(t.Context(), signals); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if calledOff(ended, nil) {
		t.Error("called off after the end")
	}
}
