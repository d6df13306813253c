package descfmt

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"
)

type list interface {
	Len() int
}

func FormatList(s fmt.State, _ rune, vs list) { fmt.Fprintf(s, "list of %d", vs.Len()) }

func FormatDesc(s fmt.State, _ rune, t protoreflect.Descriptor) { fmt.Fprint(s, string(t.FullName())) }
