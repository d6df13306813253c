package trace

import "fmt"

type Error = error

func NotFound(format string, args ...interface{}) Error     { return fmt.Errorf(format, args...) }
func BadParameter(format string, args ...interface{}) Error { return fmt.Errorf(format, args...) }
func Wrap(err error, _ ...interface{}) Error                { return err }
